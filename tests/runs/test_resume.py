"""Going on with a training: what is refused, what is begun anew, and that nothing is doubled."""

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.core.files import owner_tag
from medsam_adapt.runs.checkpoint import read_checkpoint
from medsam_adapt.training.setup import RunHandler
from tests.equal_runs import differences

pytestmark = pytest.mark.usefixtures("tiny_nano")
SMALL = ["--bundle", "decoder", "--image-size", "32", "--epochs", "2", "--device", "cpu"]
SMALL += [part for name in ("batch_size=6", "min_steps=2", "val_interval=1") for part in ("--set", name)]


def call(capsys, *arguments):
    """Exit code, standard output and standard error of a training."""
    with pytest.raises(SystemExit) as stopped:
        main(["train", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


@pytest.fixture(scope="module")
def whole(tiny_nano, phantoms, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--data", str(phantoms), *SMALL, "--output", str(folder)])
    assert not stopped.value.code
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def unfinished(copy):
    """As if it had been killed before its end was noted."""
    cost = json.loads((copy / "training.json").read_text())
    (copy / "training.json").write_text(json.dumps({**cost, "finished": False}))
    return copy


def test_a_finished_run_is_left_as_it_is(copy, capsys):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    code, out, _ = call(capsys, "--resume", "--output", copy)
    assert (code, "is finished: there is nothing to continue" in out) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_a_kill_after_the_last_epoch_doubles_no_score(unfinished, whole, capsys):
    assert call(capsys, "--resume", "--output", unfinished, "--device", "cpu")[0] == 0
    assert differences(unfinished, whole) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--epochs", 9], "was begun with another epochs. Resume it without that option, or begin another run with"),
        (["--seed", 7], "was begun with another seed"),
        (["--set", "learning_rate=1"], "was begun with another learning_rate"),
        (["--set", "learning_rat=1"], "there is no setting 'learning_rat'. Did you mean 'learning_rate'?"),
        (["--bundle", "lora"], "was begun with the bundle decoder. Resume it without --bundle lora"),
    ],
)
def test_other_settings_are_refused_by_name(unfinished, capsys, options, words):
    code, _, err = call(capsys, "--resume", "--output", unfinished, "--device", "cpu", *options)
    assert code == 2
    assert words in err


def test_changed_data_is_refused(unfinished, phantoms, tmp_path, capsys):
    data = shutil.copytree(phantoms, tmp_path / "data")
    labels = sorted((data / "labels").iterdir())
    trained_on = next(path for path in labels if path.name.split(".")[0] not in held_out(unfinished))
    label = nib.load(trained_on)
    changed = np.asarray(label.dataobj) * (np.asarray(label.dataobj) != 1)
    nib.save(nib.Nifti1Image(changed, label.affine, label.header), trained_on)
    code, _, err = call(capsys, "--resume", "--data", data, "--output", unfinished, "--device", "cpu")
    assert code == 2
    assert "images or labels of its training cases changed" in err
    trained_on.unlink()
    (data / "images" / trained_on.name).unlink()
    code, _, err = call(capsys, "--resume", "--data", data, "--output", unfinished, "--device", "cpu")
    assert code == 2
    assert "its training cases changed" in err


def held_out(run):
    return json.loads((run / "run.json").read_text())["held_out"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_leads_to_the_same(unfinished, whole, capsys, caplog):
    (unfinished / "state.pt").write_bytes(b"damaged")
    code, _, _ = call(capsys, "--resume", "--output", unfinished, "--device", "cpu")
    assert code == 0
    assert f"{unfinished / 'state.pt'}: it is damaged" in caplog.text
    assert differences(unfinished, whole) == []


@pytest.mark.parametrize("left", ["nothing", "configs", "record"])
def test_a_run_killed_before_its_first_checkpoint_begins_anew(whole, phantoms, tmp_path, capsys, left):
    run = tmp_path / "run"
    parts = {"nothing": (), "configs": ("logs", "configs"), "record": ("logs", "configs", "docs")}
    for name in parts[left]:
        shutil.copytree(whole / name, run / name)
    if left == "record":
        shutil.copy(whole / "run.json", run)
        gone = owner_tag().replace(f"-{os.getpid()}-", "-99999999-")
        (run / f".{gone}.state.pt").touch()  # of a process that is no more
    assert call(capsys, "--resume", "--data", phantoms, *SMALL, "--output", run)[0] == 0
    assert differences(run, whole) == []
    assert not list(run.glob(".*"))


def test_without_a_run_and_without_data_there_is_nothing_to_resume(tmp_path, capsys):
    code, _, err = call(capsys, "--resume", "--output", tmp_path / "run")
    assert (code, "is not a run" in err) == (2, True)
    assert not (tmp_path / "run").exists()


def test_someone_elses_folder_is_not_taken_for_a_begun_run(phantoms, tmp_path, capsys):
    (tmp_path / "run" / "logs").mkdir(parents=True)
    (tmp_path / "run" / "thesis.txt").touch()
    code, _, err = call(capsys, "--resume", "--data", phantoms, *SMALL, "--output", tmp_path / "run")
    assert (code, "already exists" in err) == (2, True)


def test_checkpoints_within_an_epoch_lead_to_the_same(whole, phantoms, tmp_path, capsys, monkeypatch):
    save_state, run = RunHandler._save_state, tmp_path / "run"

    def killed_within_the_second_epoch(keeper, engine):
        save_state(keeper, engine)
        if engine.state.iteration == engine.state.epoch_length + 1:
            raise KeyboardInterrupt

    each_step = ["--set", "save_minutes=0", "--set", "num_workers=1"]
    with monkeypatch.context() as patch:
        patch.setattr(RunHandler, "_save_state", killed_within_the_second_epoch)
        assert call(capsys, "--data", phantoms, *SMALL, *each_step, "--output", run)[0]
    assert read_checkpoint(run)[0]["epoch_is_open"]
    assert call(capsys, "--resume", "--output", run, "--device", "cpu", "--set", "num_workers=0")[0] == 0
    assert differences(run, whole) == []


def test_the_cost_is_that_of_the_checkpoint_and_what_follows(unfinished, capsys):
    state, _ = read_checkpoint(unfinished)
    assert call(capsys, "--resume", "--output", unfinished, "--device", "cpu")[0] == 0
    cost = json.loads((unfinished / "training.json").read_text())
    assert cost["finished"]
    assert cost["seconds"] >= round(state["cost"]["seconds"], 3)
