"""Trainings with a detail branch: resumed bit by bit, and added to a method whose frozen features are kept."""

import json

import pytest
import torch

from medsam_adapt.cli.main import main
from medsam_adapt.data.slices.clean_up import describe_clean_up
from medsam_adapt.runs.record import read_run
from medsam_adapt.training.run_handler import RunHandler
from tests.equal_runs import differences

pytestmark = pytest.mark.usefixtures("tiny_nano")
SMALL = ["--image-size", "32", "--epochs", "2", "--device", "cpu"]
SETS = ("batch_size=4", "min_steps=2", "max_steps=2", "val_interval=1", "average=0.9")
OFTEN = ["--set", "save_minutes=0"]  # a checkpoint after every step


def train(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["train", *map(str, arguments)])
    return stopped.value.code or 0


@pytest.mark.parametrize("held_out", ["null", "0.34"])
def test_a_run_killed_within_an_epoch_comes_to_the_same_bits(phantoms, tmp_path, monkeypatch, capsys, held_out):
    sets = [part for name in (*SETS, f"held_out={held_out}") for part in ("--set", name)]
    assert train("--data", phantoms, *SMALL, *sets, "--output", tmp_path / "whole") == 0
    save_state = RunHandler._save_state

    def killed(keeper, engine):
        save_state(keeper, engine)
        if engine.state.iteration == engine.state.epoch_length + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunHandler, "_save_state", killed)
        assert train("--data", phantoms, *SMALL, *sets, *OFTEN, "--output", tmp_path / "run")
    rarely = ["--set", "num_workers=0", "--set", "save_minutes=10"]
    assert train("--resume", "--output", tmp_path / "run", "--device", "cpu", *rarely) == 0
    assert differences(tmp_path / "run", tmp_path / "whole") == []
    record = read_run(tmp_path / "run")
    assert [each.name for each in record.cleaning] == record.class_names
    assert {(each.patients, each.held_out) for each in record.cleaning} == {
        (3, False) if held_out == "null" else (1, True)
    }
    inference = json.loads((tmp_path / "run" / "configs" / "inference.json").read_text())
    assert inference["slicing"]["cleaning"] == [each.model_dump() for each in record.cleaning]
    assert describe_clean_up(record.cleaning) in capsys.readouterr().out
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    saved = torch.load(tmp_path / "run" / "models" / "model.pt", weights_only=True)
    if held_out == "null":  # the average is what is saved, not the last weights
        name = "sam.detail.head.weight"
        assert torch.equal(saved[name], state["states"]["average"]["average"][name])
        assert not torch.equal(saved[name], state["weights"][name])


@pytest.mark.parametrize("prompt", ["none", "box"])
def test_another_bundle_takes_the_branch_beside_kept_features(phantoms, tmp_path, prompt):
    sets = ("detail=8", "tune_encoder=false", "cache_frozen=on", "cached_views=2", "min_steps=2", "max_steps=2")
    options = [part for name in sets for part in ("--set", name)]
    run = tmp_path / "run"
    small = ["--image-size", "32", "--epochs", "1", "--device", "cpu", "--prompt", prompt]
    assert train("--data", phantoms, "--bundle", "samparser", *small, *options, "--output", run) == 0
    assert json.loads((run / "run.json").read_text())["detail"] == 8
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(run), "--device", "cpu"])
    assert not stopped.value.code
