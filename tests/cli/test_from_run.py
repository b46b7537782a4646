"""``train --from``: other data, the weights, classes and intensities of an earlier run."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from .test_train import SMALL, call

pytestmark = pytest.mark.usefixtures("tiny_nano")


@pytest.fixture(scope="module")
def run(tiny_nano, phantoms, tmp_path_factory):
    from medsam_adapt.workflows.train import train

    folder = tmp_path_factory.mktemp("earlier") / "run"
    sets = {"rank": 2, "intensity": "ct-bone", "image_size": 32, "min_steps": 1, "epochs": 1, "batch_size": 2}
    train(phantoms, folder, bundle="lora", sets=sets, device="cpu")
    return folder


@pytest.fixture
def more(phantoms, tmp_path):
    """Two cases without a spleen, one of them relabelled."""
    folder = shutil.copytree(phantoms, tmp_path / "more")
    for part in ("images", "labels"):
        (folder / part / "phantom_000.nii.gz").unlink()
    for path in (folder / "labels").iterdir():
        label = nib.load(path)
        array = np.asarray(label.dataobj).copy()
        array[array == 3] = 0
        nib.save(nib.Nifti1Image(array, label.affine), path)
    return folder


def weights(folder):
    return torch.load(folder / "models/model.pt", weights_only=True)


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_run_goes_on_with_more_data(run, more, tmp_path, capsys):
    options = ["--epochs", 1, "--device", "cpu", "--output", tmp_path / "new"]
    code, out, _ = call(capsys, "train", "--from", run, "--data", more, *options, "--set", "learning_rate=1e-9")
    assert code == 0
    assert f"starts from the weights of {run}" in out
    assert f"Backbone: vit_nano, as in {run}." in out
    assert "class 'spleen' has no voxel in these training labels" in out
    new, old = record(tmp_path / "new"), record(run)
    for key in ("bundle", "class_names", "label_ids", "policy", "image_size", "axis", "adapter", "absent"):
        assert new[key] == old[key]
    assert (new["policy"]["low"], new["policy"]["high"]) == (-450, 1050)
    assert new["knobs"]["batch_size"] == 2
    assert new["started_from"] == "run"
    assert new["train"] == ["phantom_001"]
    assert new["held_out"] == old["held_out"] == ["phantom_002"]
    before, after = weights(run), weights(tmp_path / "new")
    assert any(not torch.equal(after[name], before[name]) for name in before)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)  # so small a rate leaves them where they began


def test_held_out_patients_stay_held_out_over_three_rounds(run, phantoms, tmp_path, capsys):
    (held_out,) = record(run)["held_out"]
    trained = record(run)["train"]
    away = shutil.copytree(phantoms, tmp_path / "away")  # the second round does not have the held-out case
    for part in ("images", "labels"):
        (away / part / f"{held_out}.nii.gz").unlink()
        (away / part / f"{trained[0]}.nii.gz").rename(away / part / "new.nii.gz")
    options = ["--epochs", 1, "--device", "cpu", "--set", "held_out=0.34"]
    second, third = tmp_path / "second", tmp_path / "third"
    assert call(capsys, "train", "--from", run, "--data", away, *options, "--output", second)[0] == 0
    assert record(second)["train"] == sorted([trained[1], "new"])  # of two patients none is held out
    assert record(second)["held_out_before"] == [held_out]
    assert record(second)["trained_before"] == [trained[0]]
    again = [*options, "--seed", 1, "--output", third]  # another split would hold out another case
    code, out, _ = call(capsys, "train", "--from", second, "--data", phantoms, *again)
    assert code == 0
    assert f"Held out by the run to start from, and still: {held_out}." in out
    assert record(third)["held_out"] == [held_out]
    assert record(third)["train"] == trained
    assert record(third)["trained_before"] == ["new"]


def test_a_split_that_holds_out_what_was_trained_on_is_noted(run, phantoms, tmp_path, capsys):
    trained = record(run)["train"]
    split = {"train": [record(run)["held_out"][0], trained[1]], "held_out": [trained[0]]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    options = ["--split-file", tmp_path / "split.json", "--dry-run", "--device", "cpu"]
    code, out, _ = call(capsys, "train", "--from", run, "--data", phantoms, *options)
    assert code == 0
    assert f"was trained on {trained[0]}, which the given split holds out" in out


def test_an_interrupted_continuation_resumes(run, more, tmp_path, capsys, monkeypatch):
    from medsam_adapt.training.setup import RunHandler

    arguments = ["train", "--from", run, "--data", more, "--epochs", 2, "--device", "cpu"]
    assert call(capsys, *arguments, "--output", tmp_path / "whole")[0] == 0
    save_state = RunHandler._save_state

    def killed(keeper, engine):
        save_state(keeper, engine)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunHandler, "_save_state", killed)
        call(capsys, *arguments, "--output", tmp_path / "parts")
    assert call(capsys, "train", "--resume", "--output", tmp_path / "parts", "--device", "cpu")[0] == 0
    torch.testing.assert_close(weights(tmp_path / "parts"), weights(tmp_path / "whole"), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--image-size", 48], "image_size: the run to start from has 32, not 48"),
        (["--set", "detail=8", "--set", "coordinates=on"], "coordinates: the run to start from has off, not on"),
        (["--set", "intensity=ct-lung"], "intensity: the run to start from has ct-bone, not ct-lung"),
        (["--classes", "liver"], "keeps its classes"),
        (["--set", "rank=3"], "do not fit this network"),
        (["--set", "tune_encoder=false"], "the encoder is trained in only one of them"),
        (["--resume"], "--from: it starts a separate run"),
        (["--repeat", "{run}"], "--from: it starts a separate run"),
    ],
)
def test_what_would_change_the_weights_meaning_is_refused(run, more, tmp_path, capsys, options, words):
    options = [str(option).format(run=run) for option in options]
    code, _, err = call(capsys, "train", "--from", run, "--data", more, *options, "--output", tmp_path / "new")
    assert code == 2
    assert words in err
    assert not (tmp_path / "new").exists()


def test_other_classes_and_what_is_no_run_are_refused(run, more, tmp_path, capsys):
    names = json.loads((more / "labels.json").read_text())
    (more / "labels.json").write_text(json.dumps({**names, "6": "gallbladder"}))
    code, _, err = call(capsys, "train", "--from", run, "--data", more, "--output", tmp_path / "new")
    assert code == 2
    assert "gallbladder is its label 6, and the run to start from has only 1 liver" in err
    code, _, err = call(capsys, "train", "--from", more, "--data", more, "--output", tmp_path / "new")
    assert code == 2
    assert "is not a run" in err
    assert not (tmp_path / "new").exists()


def test_a_run_is_replaced_whole(phantoms, tmp_path, capsys):
    options = [*SMALL, "--epochs", 1, "--bundle", "decoder", "--output", tmp_path / "run"]
    for seed in (0, 1):
        assert call(capsys, "train", "--data", phantoms, *options, "--seed", seed, "--overwrite")[0] == 0
        assert record(tmp_path / "run")["knobs"]["seed"] == seed
        assert len(list((tmp_path / "run/logs").iterdir())) == 2  # of the trainer, and of the validator
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
