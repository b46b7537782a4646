"""``--json`` prints JSON and nothing else; ``--quiet`` prints no more than notes, ``--verbose`` tracebacks too."""

import json

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.cli.lazy_group import SUMMARIES, load_command
from medsam_adapt.cli.main import main

SMALL = ["--image-size", "32", "--epochs", "1", "--set", "min_steps=1", "--device", "cpu"]


def call(capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def facts(capsys, *arguments):
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize(
    "command",
    [["bundles", "list"], ["bundles", "show", "lora"], ["bundles", "check", "lora"], ["weights", "list"], ["info"]],
    ids=" ".join,
)
def test_listings_are_json(capsys, command):
    assert facts(capsys, *command)


def test_a_data_set_and_the_plan_of_a_training_are_json(capsys, phantoms):
    assert len(facts(capsys, "data", "check", phantoms)["cases"]) == 3
    plan = facts(capsys, "train", "--bundle", "lora", "--data", phantoms, "--dry-run", *SMALL)
    assert len(plan["train"]) + len(plan["held_out"]) == 3
    assert plan["steps"] >= 1
    assert plan["trainable"]["total"] > 0
    assert plan["backbone"] == "vit_nano"
    assert plan["why_backbone"].startswith("the default")


def test_json_of_a_training_needs_a_dry_run(capsys, phantoms, tmp_path):
    code, _, err = call(capsys, "train", "--data", phantoms, "--output", tmp_path / "run", "--json")
    assert (code, "--dry-run" in err) == (2, True)
    assert not (tmp_path / "run").exists()


def test_masks_and_scores_are_json(capsys, made, tmp_path):
    scan = made / "scans/case_0.nii.gz"
    done = facts(capsys, "predict", made / "run", "-i", scan, "-o", tmp_path / "masks", "--device", "cpu")
    (mask,) = done["masks"]
    assert nib.load(mask).shape == nib.load(scan).shape
    scores = facts(capsys, "evaluate", "--pred", mask, "--ref", mask, "--output", tmp_path / "scores")
    assert scores == json.loads((tmp_path / "scores/metrics.json").read_text())


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_command_can_be_quiet_and_verbose(name):
    command = load_command(name)
    for each in getattr(command, "commands", {name: command}).values():
        options = {option for parameter in each.params for option in parameter.opts}
        assert {"--quiet", "--verbose"} <= options, each.name


def test_quiet_and_verbose(capsys, tmp_path):
    for folder in ("masks", "labels"):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(np.eye(8, dtype=np.uint8)[None], np.eye(4)), tmp_path / folder / "a.nii.gz")
    scored = ["evaluate", "--pred", tmp_path / "masks", "--ref", tmp_path / "labels", "--output", tmp_path / "scores"]
    assert call(capsys, *scored, "--quiet")[:2] == (0, "")
    assert (tmp_path / "scores/metrics.json").is_file()
    code, out, err = call(capsys, "bundles", "show", "nowhere", "--verbose")
    assert (code, out) == (2, "")
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in call(capsys, "bundles", "show", "nowhere")[2]
    assert call(capsys, "info", "--quiet", "--verbose")[0] == 2
