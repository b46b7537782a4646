"""``medsam-adapt adapters``, and what a pulled run can do in the other commands."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from monai.bundle import ConfigWorkflow

from medsam_adapt.cli.main import main
from medsam_adapt.data.phantom.phantom import PHANTOM_CLASSES
from tests.hub.runs import adapted_run, files_in, same_weights

from .test_train import call

CLASSES = tuple(PHANTOM_CLASSES.values())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return adapted_run(tmp_path_factory.mktemp("trained") / "run", names=CLASSES, train=["a", "b"], held_out=["c"])


@pytest.fixture(scope="module")
def repository(run):
    with pytest.raises(SystemExit) as stopped:
        main(["adapters", "push", str(run), str(run.parent / "repository"), "--license", "MIT"])
    assert not stopped.value.code
    return run.parent / "repository"


@pytest.fixture(scope="module")
def pulled(repository):
    with pytest.raises(SystemExit) as stopped:
        main(["adapters", "pull", str(repository), "--output", str(repository.parent / "pulled")])
    assert not stopped.value.code
    return repository.parent / "pulled"


def test_push_and_pull_tell_what_they_did(run, tmp_path, capsys):
    code, out, _ = call(capsys, "adapters", "push", run, tmp_path / "repository")
    assert code == 0
    assert f"with these weights it gives {run} bit by bit" in out
    assert "no licence is stated" in out
    code, out, _ = call(capsys, "adapters", "pull", tmp_path / "repository", "--output", tmp_path / "pulled")
    assert code == 0
    assert "note" not in out
    assert "Next: medsam-adapt predict" in out
    assert same_weights(run, tmp_path / "pulled")


def test_show_tells_what_it_is_without_torch(repository):
    code = (
        "import sys; from medsam_adapt.cli.main import app; "
        f"app(['adapters', 'show', {str(repository)!r}], standalone_mode=False); "
        "print([m for m in ('torch', 'monai', 'huggingface_hub') if m in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    for words in (", ".join(CLASSES), "lora, by LoRA", "sam_nano, Apache-2.0", "2 cases, 1 held out", "MIT"):
        assert words in finished.stdout
    assert finished.stdout.strip().endswith("[]")


def test_what_is_there_is_replaced_only_on_demand_and_only_if_it_is_ours(run, repository, tmp_path, capsys):
    place = shutil.copytree(repository, tmp_path / "repository")
    code, _, err = call(capsys, "adapters", "push", run, place)
    assert (code, "already contains an adapter" in err) == (2, True)
    assert call(capsys, "adapters", "push", run, place, "--overwrite")[0] == 0
    code, _, err = call(capsys, "adapters", "push", run, run, "--overwrite")
    assert (code, "other files" in err) == (2, True)
    code, _, err = call(capsys, "adapters", "pull", place, "--output", place, "--overwrite")
    assert (code, "other files" in err) == (2, True)
    output = shutil.copytree(run, tmp_path / "run")
    code, _, err = call(capsys, "adapters", "pull", place, "--output", output)
    assert (code, "already exists" in err) == (2, True)
    (place / "adapter/adapter_model.safetensors").write_bytes(b"")
    before = files_in(output)
    code, _, err = call(capsys, "adapters", "pull", place, "--output", output, "--overwrite")
    assert (code, "is damaged" in err) == (2, True)
    assert files_in(output) == before
    code, _, err = call(capsys, "adapters", "pull", tmp_path / "nowhere", "--output", tmp_path / "new")
    assert (code, "does not exist: give a folder written by" in err) == (2, True)


# ---------------------------------------------------------------------------------- a pulled run in other commands


def test_a_pulled_run_predicts_what_the_run_does(run, pulled, phantoms, tmp_path, capsys):
    scan = phantoms / "images/phantom_000.nii.gz"
    for folder, masks in ((run, "ours"), (pulled, "theirs")):
        assert call(capsys, "predict", folder, "-i", scan, "-o", tmp_path / masks, "--device", "cpu")[0] == 0
    ours, theirs = (next((tmp_path / masks).glob("*.nii.gz")).read_bytes() for masks in ("ours", "theirs"))
    assert ours == theirs


def test_a_pulled_run_is_scored_and_reported_on_data_that_are_named(pulled, phantoms, tmp_path, capsys, monkeypatch):
    own = shutil.copytree(pulled, tmp_path / "pulled")
    monkeypatch.chdir(phantoms)  # a folder that is not named must not be taken for the run's own
    code, _, err = call(capsys, "evaluate", own, "--device", "cpu")
    assert code == 2
    assert f"error: {own} was pulled and does not know its data: give --data FOLDER." in err
    code, _, err = call(capsys, "report", own)
    assert code == 2
    assert f"medsam-adapt evaluate {own}" in err
    options = ["--data", phantoms, "--device", "cpu"]
    assert call(capsys, "evaluate", own, *options)[0] == 0
    metrics = json.loads((own / "metrics.json").read_text())
    assert len(metrics["cases"]) == 3
    assert call(capsys, "report", own)[0] == 0
    page = (own / "report.html").read_text(encoding="utf-8")
    assert "trained on (2)" in page
    assert "data:image/jpeg" in page
    assert "(folder)" not in page


def test_a_pulled_run_is_exported(pulled, phantoms, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(phantoms)
    code, out, _ = call(capsys, "export", pulled, "--to", "torchscript", "--output", tmp_path / "model.ts")
    assert code == 0
    assert "the run's data are no longer there" in out


def test_a_pulled_run_is_no_training_to_resume_or_repeat_but_one_to_start_from(pulled, phantoms, tmp_path, capsys):
    for more in ([], ["--data", phantoms]):
        code, _, err = call(capsys, "train", "--resume", "--output", pulled, *more)
        assert code == 2
        assert f"was pulled and cannot be resumed: begin another run with --from {pulled}" in err
    code, _, err = call(capsys, "train", "--repeat", pulled, "--output", tmp_path / "new")
    assert code == 2
    assert "does not know its data: give --data FOLDER" in err
    options = ["--epochs", 1, "--set", "min_steps=1", "--set", "learning_rate=1e-9", "--device", "cpu"]
    code, _, err = call(capsys, "train", "--from", pulled, "--data", phantoms, "--output", tmp_path / "new", *options)
    assert code == 0, err
    before, after = (torch.load(path / "models/model.pt", weights_only=True) for path in (pulled, tmp_path / "new"))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert call(capsys, "adapters", "push", tmp_path / "new", tmp_path / "repository")[0] == 0  # it travels on


def test_a_pulled_run_is_a_bundle_for_monai(pulled, phantoms, tmp_path):
    flow = ConfigWorkflow(
        config_file=str(pulled / "configs/inference.json"),
        meta_file=str(pulled / "configs/metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(pulled),
        dataset_dir=str(phantoms / "images"),
        output_dir=str(tmp_path / "masks"),
        device=torch.device("cpu"),
    )
    flow.initialize()
    flow.run()
    assert len(list((tmp_path / "masks").rglob("*.nii.gz"))) == 3
