import errno
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardStatsHandler

from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.runs.checkpoint import LogFiles, read_checkpoint, save_tensors, write_checkpoint
from tests.equal_runs import scalars


@pytest.fixture
def run(tmp_path):
    """A run's folder with two checkpoints: 1, and then 2."""
    (tmp_path / "run.json").touch()
    for number in (1, 2):
        write_checkpoint(tmp_path, {"number": number, "weights": torch.full((1000,), float(number))})
    return tmp_path


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path):
    path.write_bytes(b"")


def one_bit_turned(path):
    content = bytearray(path.read_bytes())
    content[content.find(torch.full((8,), 2.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)


def test_the_newest_checkpoint_is_read(run):
    state, problems = read_checkpoint(run)
    assert (state["number"], problems) == (2, [])
    assert torch.equal(state["weights"], torch.full((1000,), 2.0))


@pytest.mark.parametrize("damage", [cut_short, emptied, one_bit_turned])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(run, damage):
    damage(run / "state.pt")
    state, problems = read_checkpoint(run)
    assert state["number"] == 1
    assert len(problems) == 1
    assert problems[0].startswith(f"{run / 'state.pt'}: it is damaged")
    emptied(run / "state.previous.pt")
    with pytest.raises(
        InputError, match=r"state\.pt: it is damaged .*state\.previous\.pt: it is damaged .*--overwrite"
    ):
        read_checkpoint(run)


def test_a_kill_between_the_two_renamings_leaves_the_one_before(run):
    (run / "state.pt").unlink()
    state, problems = read_checkpoint(run)
    assert (state["number"], problems) == (1, [])
    (run / "state.previous.pt").unlink()
    assert read_checkpoint(run) == (None, [])


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path):
    with pytest.raises(RunError, match="was removed or renamed during the training"):
        write_checkpoint(tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("values", [10, 10**6])
def test_a_full_disk_is_told_from_other_faults(values):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full, a file that is always full")
    with pytest.raises(OSError, match="No space left") as failed:
        save_tensors({"a": torch.zeros(values)}, Path("/dev/full"))
    assert failed.value.errno == errno.ENOSPC


def test_what_was_logged_after_a_checkpoint_is_cut_off(tmp_path):
    def logged(lengths, steps):
        """Continue from ``lengths`` and log these steps; the lengths before the last of them."""
        engine = Engine(lambda engine, batch: batch)
        TensorBoardStatsHandler(log_dir=tmp_path / "logs", output_transform=float, tag_name="loss").attach(engine)
        logs, lengths_then = LogFiles(tmp_path / "logs", engine), {}
        logs.cut(lengths)
        for step in steps:
            if step == steps[-1]:
                lengths_then = logs.lengths()
            engine.state.iteration, engine.state.output = step, step
            engine.fire_event(Events.ITERATION_COMPLETED)
        logs.lengths()  # they reach the disk
        return lengths_then

    before = logged({}, (1, 2, 3))
    before = logged(before, (3, 4, 5))
    logged(before, (5, 6))
    assert [(step, value) for _, step, value in scalars(tmp_path)] == [(n, float(n)) for n in range(1, 7)]
