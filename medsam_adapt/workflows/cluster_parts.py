"""Work on many cases by the workers of a cluster: parts of the cases are its tasks, and their results are files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from medsam_adapt.core.errors import RunError
from medsam_adapt.core.parts import Part, device_of_process
from medsam_adapt.workflows.reporter import SILENT, Reporter

_PARTS = 4  # for each worker, so that those that are fast, or join late, take more of them


class Divisible(Protocol):
    """Work on cases that can be done in parts."""

    @property
    def device(self) -> str:
        """As the user gave it."""

    @property
    def ids(self) -> Sequence[str]:
        """All cases."""

    def elsewhere(self) -> Divisible:
        """The same for processes with another working folder."""

    def on(self, device: str) -> Divisible:
        """The same on another device."""

    def do_part(self, part: Part, reporter: Reporter) -> None:
        """Do one part of the cases; what comes of it is written to files."""


@dataclass(frozen=True)
class _NamedPart:
    """A part as a task."""

    part: Part

    @property
    def name(self) -> str:
        return str(self.part)


@dataclass(frozen=True)
class _PartsJob:
    """How parts are done; see `Job`."""

    work: Divisible

    def start(self, device: int | None) -> _PartsWorker:
        """The work on the device of this process."""
        return _PartsWorker(self.work.on(device_of_process(self.work.device, device)))

    def lost(self, item: _NamedPart, reason: str) -> RunError | None:
        """What happened to a part that ended every worker that began it."""
        return RunError(f"part {item.name}: {reason}. Give the workers more memory, and run the command again.")


class _PartsWorker:
    """Does one part at a time; see `Worker`."""

    def __init__(self, work: Divisible) -> None:
        self._work, self._one_at_a_time = work, threading.Lock()

    def run(self, item: _NamedPart) -> RunError | None:
        """Do a part; None when it is done."""
        with self._one_at_a_time:
            self._work.do_part(item.part, SILENT)
        return None


def do_on_cluster(work: Divisible, address: str, title: str, reporter: Reporter) -> list[Part]:
    """Do all cases; the parts that they were divided into.

    Args:
        work: what is done.
        address: of the cluster.
        title: of the progress bar.
        reporter: receives notes and progress.

    Raises:
        InputError: as for the work, and as `open_cluster`.
        RunError: the workers were lost.
    """
    from medsam_adapt.core.cluster import open_cluster

    ids = work.ids
    with open_cluster(address) as cluster, reporter.progress(title, len(ids)) as progress:
        if not cluster.workers:
            reporter.note(f"--cluster {address}: it has no worker yet. Waiting for one.")
        count = max(1, min(len(ids), _PARTS * max(cluster.workers, 1)))
        parts = [_NamedPart(Part(number, count)) for number in range(1, count + 1)]
        for item, failed in cluster.run(_PartsJob(work.elsewhere()), parts):
            if failed is not None:
                raise failed
            progress.update(len(item.part.of(ids)))
    return [item.part for item in parts]
