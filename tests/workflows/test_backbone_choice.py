"""A training reports which backbone it takes, and why."""

import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.slices import backbone_fit
from medsam_adapt.data.slices.backbone_fit import fit_backbone
from medsam_adapt.workflows.backbone_choice import why_backbone
from medsam_adapt.workflows.reporter import Reporter
from medsam_adapt.workflows.train import plan_training, train


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
    ("installed", "large", "slices", "minutes", "backbone", "views"),
    [
        (True, True, 100, None, "lite_medsam", 8),
        (True, True, 500, None, "lite_medsam", 3),
        (True, True, 2_000, None, "vit_nano", None),  # more than can be encoded
        (True, True, 100, 4, "lite_medsam", 3),
        (True, True, 100, 1, "vit_nano", None),  # no time to encode them
        (True, False, 100, None, "vit_nano", None),
        (False, True, 100, None, "vit_nano", None),
    ],
)
def test_large_slices_are_learned_on_the_medical_backbone(
    tmp_path, monkeypatch, installed, large, slices, minutes, backbone, views
):
    monkeypatch.setattr(backbone_fit, "local_path", lambda name: tmp_path if installed else None)
    settings, why = fit_backbone(128, large, slices, minutes)
    assert settings["backbone"] == backbone
    assert settings.get("cached_views") == views
    assert settings.get("image_size") == (128 if backbone == "lite_medsam" else None)
    assert ("default" in why) == (backbone == "vit_nano")
