"""Faults of a training, injected for real: each ends in one sentence and an exit code, and can be gone on with."""

import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import StatsHandler

from medsam_adapt.cli.main import main
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.slices.intensity import choose_policy
from medsam_adapt.data.slices.slice_store import SliceSettings, store_cases
from medsam_adapt.evaluation.evaluator import VolumeScores
from medsam_adapt.methods.losses import SegmentationLoss
from medsam_adapt.runs.checkpoint import read_checkpoint
from medsam_adapt.training.failures import explain_training_errors
from medsam_adapt.training.setup import RunHandler
from medsam_adapt.workflows.training_notes import Display
from tests.equal_runs import differences

pytestmark = pytest.mark.usefixtures("tiny_nano")
SMALL = ["--bundle", "decoder", "--image-size", "32", "--epochs", "2", "--device", "cpu"]
SMALL += [part for name in ("batch_size=6", "min_steps=2", "val_interval=1") for part in ("--set", name)]
NOBODY = 65534
LOCKER = "import sys, time; from pathlib import Path; from medsam_adapt.core.folder_lock import FolderLock; "
LOCKER += "lock = FolderLock(Path(sys.argv[1])); lock.hold(); print('held', flush=True); time.sleep(600)"


def call(capsys, *arguments):
    """Exit code, standard output and standard error of a training."""
    with pytest.raises(SystemExit) as stopped:
        main(["train", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def resumed(capsys, run):
    """Exit code of going on with a run."""
    return call(capsys, "--resume", "--output", run, "--device", "cpu")[0]


@pytest.fixture(scope="module")
def whole(tiny_nano, phantoms, tmp_path_factory):
    """A training that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--data", str(phantoms), *SMALL, "--output", str(folder)])
    assert not stopped.value.code
    return folder


@pytest.fixture
def in_second_epoch(monkeypatch):
    """Do something after the first step of the second epoch, once."""

    def set_up(act):
        step, done = Display._step, []

        def acting(display, trainer):
            step(display, trainer)
            if trainer.state.epoch == 2 and not done:
                done.append(True)
                act()

        monkeypatch.setattr(Display, "_step", acting)

    return set_up


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_training_with_a_checkpoint(whole, phantoms, tmp_path, capsys, in_second_epoch, number, code):
    handler, run = signal.getsignal(number), tmp_path / "run"
    in_second_epoch(lambda: os.kill(os.getpid(), number))
    ended, out, err = call(capsys, "--data", phantoms, *SMALL, "--output", run)
    assert ended == code
    assert f"'medsam-adapt train --resume --output {run}' continues from here" in out.replace("\n", " ")
    assert "Traceback" not in out + err
    assert signal.getsignal(number) is handler
    state, _ = read_checkpoint(run)
    assert (state["epoch"], state["epoch_is_open"]) == (2, True)
    assert resumed(capsys, run) == 0
    assert differences(run, whole) == []


def test_a_signal_within_a_validation_loses_nothing(whole, phantoms, tmp_path, capsys, monkeypatch):
    run, update = tmp_path / "run", VolumeScores.update

    def signalled(scores, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        update(scores, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(VolumeScores, "update", signalled)
        assert call(capsys, "--data", phantoms, *SMALL, "--output", run)[0] == 143
    assert read_checkpoint(run)[0]["validated"] == 0
    assert not (run / "models" / "model.pt").exists()
    assert resumed(capsys, run) == 0
    assert differences(run, whole) == []


def test_an_interrupted_replacement_takes_the_place_once_it_has_a_checkpoint(
    whole, phantoms, tmp_path, capsys, in_second_epoch
):
    run = shutil.copytree(whole, tmp_path / "run")
    in_second_epoch(lambda: os.kill(os.getpid(), signal.SIGTERM))
    arguments = ["--data", phantoms, *SMALL, "--output", run, "--overwrite", "--seed", 1]
    assert call(capsys, *arguments)[0] == 143
    assert json.loads((run / "run.json").read_text())["knobs"]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_trainer_that_is_made_within_prints_no_traceback(tmp_path, capsys, monkeypatch):
    """As in a separate process, where nothing has given the logger of MONAI's handler a place to print to."""
    monkeypatch.setattr(logging.getLogger("monai.handlers.StatsHandler"), "handlers", [])

    @explain_training_errors(tmp_path, {})
    def train():
        trainer = Engine(lambda *_: 1 / 0)
        StatsHandler().attach(trainer)
        trainer.run([0])

    with pytest.raises(ZeroDivisionError):
        train()
    assert capsys.readouterr().err == ""
    assert not logging.getLogger("monai.handlers.StatsHandler").disabled


@contextmanager
def limited_files(run):
    """No file may grow beyond 4 KB: what a user's limit does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def full_disk(run):
    """A file takes all the room that is left on the small disk."""
    filler = run.parent / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def small_disk(folder):
    """A disk of 64 MB in memory, mounted where this is allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk to fill")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", [limited_files, full_disk])
def test_a_full_disk(whole, phantoms, tmp_path, capsys, in_second_epoch, kind):
    with ExitStack() as stack:
        folder = stack.enter_context(small_disk(tmp_path / "disk")) if kind is full_disk else tmp_path
        run, filled = folder / "run", ExitStack()
        in_second_epoch(lambda: filled.enter_context(kind(run)))
        with filled:
            code, out, err = call(capsys, "--data", phantoms, *SMALL, "--output", run)
        assert code == 1
        assert f"error: {run}: its disk is full" in err
        assert "Traceback" not in out + err
        assert read_checkpoint(run)[1] == []
        assert not list(run.glob(".*.pt"))
        assert resumed(capsys, run) == 0
        assert differences(run, whole) == []


def test_a_folder_that_is_removed(phantoms, tmp_path, capsys, in_second_epoch):
    run = tmp_path / "run"
    in_second_epoch(lambda: shutil.rmtree(run))
    code, out, err = call(capsys, "--data", phantoms, *SMALL, "--output", run)
    assert code == 1
    assert f"{run}: it was removed or renamed during the training" in err
    assert "Traceback" not in out + err
    assert not run.exists()


def test_a_folder_that_becomes_read_only(whole, phantoms, tmp_path, capsys, monkeypatch):
    """Root may write anywhere: there the process goes on as nobody, whom the folder does not belong to."""
    run, save_state = tmp_path / "run", RunHandler._save_state
    for folder in (tmp_path, *tmp_path.parents):
        if "pytest-of" in str(folder):
            folder.chmod(0o755)  # as nobody too it is found

    def without_right(keeper, engine):
        if engine.state.epoch == 2:
            for folder in (run, run / "logs"):
                folder.chmod(0o555)
            if os.geteuid() == 0:
                os.seteuid(NOBODY)
        save_state(keeper, engine)

    with monkeypatch.context() as patch:
        patch.setattr(RunHandler, "_save_state", without_right)
        try:
            code, out, err = call(capsys, "--data", phantoms, *SMALL, "--output", run)
        finally:
            os.seteuid(os.getuid())
            for folder in (run, run / "logs"):
                folder.chmod(0o755)
    assert code == 1
    assert f"{run}: it can no longer be written to (Permission denied). Make it writable" in err
    assert "Traceback" not in out + err
    assert resumed(capsys, run) == 0
    assert differences(run, whole) == []


def test_a_worker_that_is_killed(whole, phantoms, tmp_path, capsys, in_second_epoch):
    run = tmp_path / "run"

    def kill_worker():
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
            child.join()

    in_second_epoch(kill_worker)
    code, out, err = call(capsys, "--data", phantoms, *SMALL, "--set", "num_workers=1", "--output", run)
    assert code == 1
    assert "a process that prepares slices was killed" in err
    assert "--set num_workers=0 for instance (it is 1)" in err
    assert "Traceback" not in out + err
    assert call(capsys, "--resume", "--output", run, "--device", "cpu", "--set", "num_workers=0")[0] == 0
    assert differences(run, whole) == []


def test_too_little_memory(phantoms, tmp_path, capsys, in_second_epoch):
    """torch's own allocator fails, in a process that may not grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    def too_much():
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 28), hard))
        try:
            torch.zeros(1 << 34, dtype=torch.uint8)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    in_second_epoch(too_much)
    code, out, err = call(capsys, "--data", phantoms, *SMALL, "--output", tmp_path / "run")
    assert code == 1
    again = f"train --resume --output {tmp_path / 'run'} --set slices_at_once=1 --low-memory"
    message = f"there is not enough memory for this training. Continue with 'medsam-adapt {again}', or lower batch_size"
    assert message in " ".join(err.split())
    assert call(capsys, *again.split()[1:])[0] == 0
    assert "Traceback" not in out + err


def test_too_little_memory_of_a_gpu(phantoms, tmp_path, capsys, in_second_epoch):
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU whose memory could run out")
    in_second_epoch(lambda: torch.zeros(1 << 50, dtype=torch.uint8, device="cuda"))
    arguments = ["--data", phantoms, *SMALL, "--device", "cuda", "--output", tmp_path / "run"]
    code, _, err = call(capsys, *arguments)
    assert (code, "there is not enough memory for this training" in err) == (1, True)


def test_a_loss_that_is_not_a_number(phantoms, tmp_path, capsys, monkeypatch):
    run, forward, steps = tmp_path / "run", SegmentationLoss.forward, []

    def diverging(self, *arguments, **options):
        steps.append(1)
        return forward(self, *arguments, **options) * (float("inf") if len(steps) == 3 else 1)

    monkeypatch.setattr(SegmentationLoss, "forward", diverging)
    arguments = ["--data", phantoms, *SMALL, "--set", "save_minutes=0", "--output", run]
    code, _, err = call(capsys, *arguments)
    assert code == 1
    assert "the loss became inf in epoch 1, step 3 (case phantom_0" in err
    assert "slice" in err
    state, problems = read_checkpoint(run)
    assert (state["iteration"], problems) == (2, [])


def test_weights_that_are_not_numbers_are_not_kept(phantoms, tmp_path, capsys, monkeypatch):
    run, forward, steps = tmp_path / "run", SegmentationLoss.forward, []

    def endless_slope(self, logits, *arguments):
        steps.append(1)
        loss = forward(self, logits, *arguments)
        return loss + (logits.sum() * 0).sqrt() if len(steps) == 3 else loss  # its value stays as it is

    monkeypatch.setattr(SegmentationLoss, "forward", endless_slope)
    code, _, err = call(capsys, "--data", phantoms, *SMALL, "--set", "save_minutes=0", "--output", run)
    assert code == 1
    assert "the weights are no longer finite after epoch 1, step 3 (case phantom_0" in err
    state, problems = read_checkpoint(run)
    assert (state["iteration"], problems) == (2, [])


def test_two_trainings_of_one_folder(whole, phantoms, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "training.json").unlink()
    other = subprocess.Popen([sys.executable, "-c", LOCKER, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        for arguments in (["--resume"], ["--data", phantoms, *SMALL, "--overwrite"]):
            code, _, err = call(capsys, *arguments, "--output", run)
            assert code == 2
            assert f"{run}: it is being trained by process {other.pid} on" in err
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert (run / ".lock").exists()  # of a process that is no more: not in the way
    assert resumed(capsys, run) == 0
    assert not (run / ".lock").exists()


def test_two_processes_of_one_cache(phantoms, tmp_path):
    cases = list(find_cases(phantoms).cases)
    settings = SliceSettings(32, "axial", choose_policy("ct-abdomen", iter(())), (1, 2, 3))
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(2), context.Queue()

    def fill():
        barrier.wait()
        stored = store_cases(cases, settings, tmp_path / "cache")
        queue.put({name: case.images[0].sum().item() for name, case in stored.items()})

    processes = [context.Process(target=fill) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = queue.get(timeout=120), queue.get(timeout=120)
    for process in processes:
        process.join()
    assert first == second
    assert len(first) == len(list((tmp_path / "cache").iterdir())) == len(cases)


def test_a_clock_that_jumps(whole, phantoms, tmp_path, capsys, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", iter(now - 86400 * step for step in range(10**6)).__next__)
    code, _, _ = call(capsys, "--data", phantoms, *SMALL, "--output", tmp_path / "run")
    assert code == 0
    assert 0 < json.loads((tmp_path / "run" / "training.json").read_text())["seconds"] < 3600
    assert differences(tmp_path / "run", whole) == []
