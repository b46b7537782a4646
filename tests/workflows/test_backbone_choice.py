"""A training reports which backbone it takes, and why."""

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.slices import backbone_fit
from medsam_adapt.data.slices.backbone_fit import fit_backbone
from medsam_adapt.workflows.backbone_choice import why_backbone
from medsam_adapt.workflows.reporter import Reporter
from medsam_adapt.workflows.train import plan_training, train
from tests.slicing import training_data


class Notes(Reporter):
    """It keeps the notes, and ends a training at its first progress."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)

    def progress(self, *arguments):
        raise InputError("far enough: it goes no further. Read the notes.")


def backbone_line(action, *arguments, **options):
    reporter = Notes()
    with pytest.raises(InputError, match="far enough"):
        action(*arguments, reporter=reporter, device="cpu", **options)
    (line,) = (line for line in reporter.lines if line.startswith("Backbone: "))
    return line


def test_a_training_and_its_plan_print_one_line(phantoms, tmp_path):
    settings = {"image_size": 32, "cache_dir": tmp_path / "cache"}
    for action, where in ((train, (tmp_path / "run",)), (plan_training, ())):
        line = backbone_line(action, phantoms, *where, **settings)
        assert line.startswith("Backbone: vit_nano, the default")
        line = backbone_line(action, phantoms, *where, backbone="vit_nano", **settings)
        assert line == "Backbone: vit_nano, as given."
        line = backbone_line(action, phantoms, *where, sets={"backbone": "lite_medsam"}, bundle="lora", **settings)
        assert line == "Backbone: lite_medsam, as given."


def test_reasons(tmp_path):
    assert why_backbone("vit_b", {"backbone": "vit_b"}, "paper", tmp_path) == "as given"
    assert why_backbone("vit_b", {}, "default", tmp_path) == f"as in {tmp_path}"
    assert why_backbone("vit_b", {"seed": 1}, "paper", None) == "that of the recipe 'paper'"
    assert why_backbone("vit_nano", {}, "default", None).startswith("the default")
    assert not why_backbone("auto", {"backbone": "auto"}, "default", None)


@pytest.mark.parametrize(
    ("installed", "large", "patients", "slices", "minutes", "backbone"),
    [
        (True, True, 3, 100, None, "lite_medsam"),
        (True, True, 3, 2_001, None, "vit_nano"),  # too many to encode
        (True, True, 3, 300, 4, "lite_medsam"),
        (True, True, 3, 300, 3, "vit_nano"),  # no time to encode them
        (True, True, 1, 100, None, "vit_nano"),
        (True, False, 3, 100, None, "vit_nano"),
        (False, True, 3, 100, None, "vit_nano"),
    ],
)
def test_large_slices_are_learned_on_the_medical_backbone(
    tmp_path, monkeypatch, installed, large, patients, slices, minutes, backbone
):
    monkeypatch.setattr(backbone_fit, "local_path", lambda name: tmp_path if installed else None)
    settings, why = fit_backbone(128, large, patients, slices, minutes)
    assert settings["backbone"] == backbone
    assert settings.get("image_size") == (128 if backbone == "lite_medsam" else None)
    assert settings.get("cached_views", 8) == (0 if backbone == "lite_medsam" else 8)
    assert ("default" in why) == (backbone == "vit_nano")


@pytest.mark.parametrize(
    ("sides", "minutes", "size"),
    [
        ((256, 200, 4), None, 192),
        ((256, 200, 4), 10, 192),
        ((256, 200, 4), 9, 128),  # no time for as many steps of larger slices
        ((256, 200, 300), None, 128),  # nor to encode so many of them
        ((150, 150, 4), None, 160),
        ((130, 130, 4), None, 128),  # TinyViT takes multiples of 32
    ],
)
def test_the_medical_backbone_sees_finer_slices_where_there_is_time(tmp_path, monkeypatch, sides, minutes, size):
    monkeypatch.setattr(backbone_fit, "local_path", lambda name: tmp_path)
    label = np.zeros(sides, np.uint8)
    label[40:110, 40:110, 1:3] = 1
    for part, voxels in (("images", 100 + 100 * label.astype(np.int16)), ("labels", label)):
        (tmp_path / "data" / part).mkdir(parents=True)
        for case in "abc":
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "data" / part / f"{case}.nii.gz")
    settings = {"backbone": "auto", "detail": 16, "held_out": 0.0, "cache_dir": str(tmp_path / "cache")}
    data = training_data(tmp_path / "data", minutes=minutes, **settings)
    assert (data.knobs.backbone, data.image_size, data.knobs.image_size) == ("lite_medsam", size, size)
