"""Two processes train as one: equal losses, one writer, and an end for all when one is killed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.slices.sampling import DrawSampler, slice_loader
from medsam_adapt.workflows.processes import count_processes
from tests.cli.test_train import SMALL, call
from tests.distributed_equality import differences
from tests.warm import running_anew, spawn_by_forking

HARDEST = ("blosam", "infosam")  # python -m tests.distributed_equality compares them all


def test_two_processes_have_the_losses_of_one_with_both_their_batches(phantoms, tmp_path, monkeypatch):
    spawn_by_forking(monkeypatch)
    found = differences([(bundle, "none") for bundle in HARDEST], phantoms, tmp_path, steps=4)
    assert max(found) < 1e-8


class Group:
    """Pretends that this process is one of several."""

    def __init__(self, monkeypatch, number, count):
        monkeypatch.setattr("medsam_adapt.data.slices.sampling.rank", lambda: number)
        monkeypatch.setattr("medsam_adapt.data.slices.sampling.world_size", lambda: count)


def test_each_process_takes_its_part_of_every_batch(monkeypatch):
    alone = list(DrawSampler(11, seed=3))
    parts = []
    for number in range(2):
        Group(monkeypatch, number, 2)
        sampler = DrawSampler(11, seed=3, batch_size=2)
        parts.append(list(sampler))
        assert len(sampler) == 4
    assert parts == [[*alone[0:2], *alone[4:6]], [*alone[2:4], *alone[6:8]]]


def test_too_few_slices_for_all_processes_are_refused(monkeypatch):
    Group(monkeypatch, 0, 4)
    dataset = type("Slices", (), {"__len__": lambda _: 5, "weights": None, "draws": 5})()
    with pytest.raises(InputError, match="4 processes that take 2 each have only 5 training slices"):
        slice_loader(dataset, batch_size=2)
    assert len(slice_loader(dataset, batch_size=2, min_steps=3)) == 3


def test_more_gpus_than_the_machine_has_are_refused(phantoms, tmp_path, capsys):
    code, _, err = call(capsys, "train", "--data", phantoms, "--output", tmp_path / "run", "--gpus", 99)
    assert code == 2
    assert "Ask for fewer, or add --device cpu" in err
    assert not (tmp_path / "run").exists()
    assert count_processes(99, "cpu") == 99


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="ranks are found by /proc, which Linux alone has")
def test_a_kill_of_one_process_ends_all_and_the_run_goes_on(phantoms, tmp_path, capsys):
    run = tmp_path / "run"
    code = "import os, sys; os.dup2(1, 2); from medsam_adapt.cli.main import main; main(sys.argv[1:])"
    command = ["train", "--bundle", "decoder", "--data", phantoms, "--output", run, *SMALL]
    command += ["--gpus", "2", "--epochs", "300"]
    for setting in ("batch_size=2", "save_minutes=0", "val_interval=1000"):
        command += ["--set", setting]
    with running_anew(code, *command) as (training, out):
        wait_for(lambda: (run / "state.pt").is_file() or not training.is_alive())
        ranks = processes_of(training.pid)
        assert sorted(ranks) == [0, 1], training
        os.kill(ranks[1], signal.SIGKILL)
        printed = out.read()
        training.join(300)
        assert training.exitcode == 1
    reported = "the process of rank 1 (of 2, counted from 0): it was ended by SIGKILL (possibly out of memory)"
    assert reported in printed
    assert "Traceback" not in printed
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    assert json.loads((run / "run.json").read_text())["processes"] == 2
    code, _, err = call(capsys, "train", "--resume", "--output", run, "--gpus", 3, "--device", "cpu")
    assert (code, err) == (2, f"error: {run}: it was begun with 2 processes. Resume it with --gpus 2.\n")


def wait_for(condition):
    deadline = time.monotonic() + 600
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def processes_of(launcher):
    """The living processes that a launcher started, by their rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile, or is another user's
            continue
        ranks = [int(line[5:]) for line in environment if line.startswith(b"RANK=")]
        if parent == launcher and ranks:
            found[ranks[0]] = int(folder.name)
    return found
