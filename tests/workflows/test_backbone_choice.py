"""A training reports which backbone it takes, and why."""

import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.workflows import backbone_choice
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


def test_reasons(tmp_path, monkeypatch):
    assert why_backbone({"backbone": "vit_b"}, "paper", tmp_path) == "as given"
    assert why_backbone({}, "default", tmp_path) == f"as in {tmp_path}"
    assert why_backbone({"seed": 1}, "paper", None) == "that of the recipe 'paper'"
    for installed in (True, False):
        monkeypatch.setattr(backbone_choice, "local_path", lambda name, here=installed: tmp_path if here else None)
        reason = why_backbone({}, "default", None)
        assert reason.startswith("the default")
        assert ("lite_medsam" in reason) == installed
