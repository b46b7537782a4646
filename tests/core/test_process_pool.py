"""Items shared among processes: each is done once, also where a process is killed."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.process_pool import run_in_processes


@dataclass(frozen=True)
class Named:
    name: str


@dataclass(frozen=True)
class Squares:
    """Squares numbers; processes that get certain ones end."""

    folder: Path
    killed_once: str = ""
    always_killed: str = ""
    refuse: bool = False

    def start(self, device):
        if self.refuse:
            raise InputError("run: it is not here. Check the path.")
        return self

    def run_all(self, items, progress=None):
        previous = None
        for item in items:  # takes one more than it has finished, as a pipeline does
            if previous is not None:
                yield previous, int(previous.name) ** 2
            self._kill(item.name)
            progress(item, 1)
            previous = item
        if previous is not None:
            yield previous, int(previous.name) ** 2

    def _kill(self, name):
        mark = self.folder / name
        if name == self.always_killed or (name == self.killed_once and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def lost(self, item, reason):
        return reason


ITEMS = [Named(str(number)) for number in range(9)]


def test_killed_processes_lose_nothing_and_repeat_nothing(tmp_path):
    seen = []
    job = Squares(tmp_path, killed_once="3", always_killed="6")
    results = list(run_in_processes(2, job, ITEMS, lambda item, done: seen.append(item.name)))
    assert sorted(item.name for item, _ in results) == [item.name for item in ITEMS]
    found = {item.name: result for item, result in results}
    assert "3 processes ended while they had it, the last one with signal SIGKILL" in found.pop("6")
    assert found == {name: int(name) ** 2 for name in found}
    assert set(seen) >= set(found)


def test_what_is_wrong_with_the_job_is_raised_once(tmp_path):
    with pytest.raises(InputError, match="it is not here"):
        list(run_in_processes(2, Squares(tmp_path, refuse=True), ITEMS))
