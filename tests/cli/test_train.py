import json
import re

import pytest
import torch

from medsam_adapt.cli.main import main
from medsam_adapt.training.setup import RunHandler
from tests.equal_runs import differences
from tests.small_networks import register_official

pytestmark = pytest.mark.usefixtures("tiny_nano")
SMALL = ["--image-size", "32", "--device", "cpu", "--set", "batch_size=8", "--set", "min_steps=1"]
QUICK = [*SMALL, "--set", "max_steps=2"]


def call(capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


@pytest.fixture
def two_cases(phantoms, tmp_path):
    """Two cases: nothing is held out, and the halves are blocks of slices."""
    folder = tmp_path / "two"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
        for path in sorted((phantoms / part).iterdir())[:2]:
            (folder / part / path.name).symlink_to(path)
    (folder / "labels.json").symlink_to(phantoms / "labels.json")
    return folder


@pytest.mark.parametrize("bundle", ["adaptformer", "blosam", "infosam", "samcobot", "samparser"])
def test_an_interrupted_run_resumes_to_the_same_weights(phantoms, tmp_path, capsys, monkeypatch, bundle):
    arguments = ["train", "--bundle", bundle, "--data", phantoms, *QUICK, "--epochs", 3, "--set", "val_interval=1"]
    assert call(capsys, *arguments, "--output", tmp_path / "whole")[0] == 0
    save_state = RunHandler._save_state

    def killed_after_the_second_epoch(keeper, engine):
        save_state(keeper, engine)
        if engine.state.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunHandler, "_save_state", killed_after_the_second_epoch)
        call(capsys, *arguments, "--output", tmp_path / "parts")
    assert call(capsys, "train", "--resume", "--output", tmp_path / "parts", "--device", "cpu")[0] == 0
    assert differences(tmp_path / "parts", tmp_path / "whole") == []


def test_a_run_is_repeated_from_its_folder(phantoms, tmp_path, capsys):
    assert (
        call(capsys, "train", "--data", phantoms, *QUICK, "--epochs", 1, "--seed", 5, "--output", tmp_path / "a")[0]
        == 0
    )
    assert call(capsys, "train", "--repeat", tmp_path / "a", "--device", "cpu", "--output", tmp_path / "b")[0] == 0
    first, second = (torch.load(tmp_path / run / "models/model.pt", weights_only=True) for run in "ab")
    torch.testing.assert_close(second, first, rtol=0, atol=0)


def test_small_data_is_told(two_cases, tmp_path, capsys):
    options = ["--bundle", "blosam", *QUICK, "--epochs", 1, "--checkpoint", "random"]
    code, out, _ = call(capsys, "train", "--data", two_cases, *options, "--output", tmp_path / "run")
    assert code == 0
    assert "there are fewer than three patients: nothing is held out" in out
    assert "contiguous blocks of slices" in out
    assert "random weights" in out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["held_out"] == []
    code, out, _ = call(capsys, "evaluate", tmp_path / "run", "--device", "cpu")
    assert code == 0
    assert "its own training cases" in out


def test_the_reason_for_holding_nothing_out_is_the_real_one(phantoms, tmp_path, capsys):
    (tmp_path / "split.json").write_text(json.dumps({"train": sorted(_stems(phantoms)), "held_out": []}))
    for options, reason in (
        (["--set", "held_out=0"], "held_out is 0"),
        (["--split-file", tmp_path / "split.json"], "split.json has an empty held_out"),
    ):
        code, out, _ = call(capsys, "train", "--data", phantoms, *QUICK, "--epochs", 1, "--dry-run", *options)
        assert code == 0
        assert f"{reason}: nothing is held out" in out.replace("\n", "")
        assert "fewer than three" not in out


def _stems(folder):
    return [path.name.removesuffix(".nii.gz") for path in (folder / "images").iterdir()]


def test_chosen_classes_keep_their_ids(phantoms, tmp_path, capsys):
    options = ["--classes", "Spleen, aorta", *QUICK, "--epochs", 1]
    assert call(capsys, "train", "--data", phantoms, *options, "--output", tmp_path / "run")[0] == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["class_names"], record["label_ids"]) == (["spleen", "aorta"], [3, 5])
    assert record["knobs"]["checkpoint"] is None
    assert record["started_from"] == "sam_nano.safetensors"


def test_a_dry_run_tells_and_writes_nothing(phantoms, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "home"))
    code, out, _ = call(capsys, "train", "--data", phantoms, *QUICK, "--dry-run", "--output", tmp_path / "run")
    assert code == 0
    for reported in ("3 cases to train on, 0 held out", "held out: nothing", "trainable values: encoder", "estimated"):
        assert reported in out
    assert not list(tmp_path.iterdir())


def test_minutes_instead_of_epochs(phantoms, tmp_path, capsys):
    options = ["--minutes", 0.1, "--image-size", 32, "--device", "cpu", "--set", "max_steps=2", "--set", "min_steps=2"]
    code, out, _ = call(capsys, "train", "--data", phantoms, *options, "--dry-run")
    assert code == 0
    epochs = int(re.search(r"0\.1 min: about ([\d,]+) epochs? of 2 steps", out)[1].replace(",", ""))
    assert f", {2 * epochs:,} steps of" in out
    code, out, _ = call(capsys, "train", "--data", phantoms, *options, "--output", tmp_path / "run")
    assert code == 0
    assert "epoch 1, " in out
    assert " of the time: loss" in out
    knobs = json.loads((tmp_path / "run" / "run.json").read_text())["knobs"]
    assert knobs["minutes"] == 0.1
    assert json.loads((tmp_path / "run" / "training.json").read_text())["finished"]
    code, _, err = call(capsys, "train", "--data", phantoms, *options, "--epochs", 3, "--output", tmp_path / "other")
    assert code == 2
    assert "--minutes: it chooses the number of epochs. Leave out --epochs." in err


@pytest.mark.parametrize("prompt", ["box", "points"])
def test_prompted_runs_train_evaluate_and_refuse_to_predict(phantoms, tmp_path, capsys, prompt):
    run = tmp_path / "run"
    options = [*QUICK, "--epochs", 1, "--prompt", prompt]
    assert call(capsys, "train", "--data", phantoms, *options, "--output", run)[0] == 0
    code, out, _ = call(capsys, "evaluate", run, "--device", "cpu")
    assert code == 0
    assert "prompts are taken from the labels" in out
    code, _, err = call(capsys, "predict", run, "-i", phantoms / "images", "-o", tmp_path / "masks")
    assert code == 2
    assert "cannot segment without one" in err
    assert not (tmp_path / "masks").exists()


def test_the_real_ct_in_flare_layout(real_data, tmp_path, capsys):
    run = tmp_path / "run"
    data = ["--data", real_data / "adome_one_case", "--layout", "adome"]
    small = [*QUICK, "--epochs", 1, "--image-size", 64]
    code, out, _ = call(capsys, "train", *data, "--output", run, *small)
    assert code == 0
    assert "'esophagus' has no voxel in any training label" in out
    assert "nothing is held out" in out
    assert call(capsys, "evaluate", run, "--device", "cpu")[0] == 0
    classes = json.loads((run / "metrics.json").read_text())["classes"]
    assert (classes["esophagus"]["dsc"], classes["esophagus"]["undefined"]) == (None, 1)
    assert sum(row["dsc"] is not None for row in classes.values()) == 12
    code, out, _ = call(
        capsys,
        "predict",
        run,
        "-i",
        real_data / "mr_abdomen" / "image.nii.gz",
        "-o",
        tmp_path / "masks",
        "--device",
        "cpu",
    )
    assert code == 0
    assert "looks like no CT in Hounsfield units" in out


def test_an_official_checkpoint_is_used(phantoms, tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    torch.save(register_official(monkeypatch).state_dict(), tmp_path / "sam_vit_b.pth")
    options = ["--backbone", "vit_b", "--checkpoint", tmp_path / "sam_vit_b.pth", *QUICK, "--epochs", 1]
    options = ["--bundle", "blosam", *options]
    run = tmp_path / "run"
    code, out, _ = call(capsys, "train", "--data", phantoms, *options, "--set", "order=first", "--output", run)
    assert code == 0
    assert "random weights" not in out
    record = json.loads((run / "run.json").read_text())
    assert record["trainable"]["encoder"] == 0
    source = torch.load(tmp_path / "sam_vit_b.pth", weights_only=True)
    trained = torch.load(run / "models" / "model.pt", weights_only=True)
    name = "image_encoder.blocks.3.attn.qkv.weight"
    assert torch.equal(trained[f"sam.{name}"], source[name])


def test_a_checkpoint_of_another_backbone_is_refused(phantoms, tmp_path, capsys):
    weights = {f"image_encoder.blocks.{index}.norm1.weight": torch.zeros(1024) for index in range(24)}
    weights["image_encoder.patch_embed.proj.weight"] = torch.zeros(1024, 3, 16, 16)
    torch.save(weights, tmp_path / "sam_vit_l.pth")
    options = ["--backbone", "vit_b", "--checkpoint", tmp_path / "sam_vit_l.pth", *QUICK]
    code, _, err = call(capsys, "train", "--data", phantoms, *options, "--output", tmp_path / "run")
    assert code == 2
    assert "sam_vit_l.pth: this checkpoint holds vit_l weights but the backbone is vit_b" in err
    assert not (tmp_path / "run").exists()
