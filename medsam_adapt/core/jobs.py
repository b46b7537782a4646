"""Work on many items by other processes: what each prepares once, and what it then does for every item.

A job and its items hold names, paths and settings only, since they pass from process to process, and on a cluster
through its scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar


class Named(Protocol):
    """What has a name that no other item has."""

    @property
    def name(self) -> str:
        """The name."""


Item = TypeVar("Item", bound=Named)
Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)  # the item of a protocol that only takes it
Given = TypeVar("Given", covariant=True)  # the result of a protocol that only gives it

Progress = Callable[[Any, int], None]  # an item, and how much of it was just done


class Worker(Protocol[Taken, Given]):
    """A job that one process has prepared, which does single items."""

    def run(self, item: Taken) -> Given:
        """One item; several threads may call this. What is wrong with the item alone is a result, not an error."""


class Stream(Protocol[Item, Given]):
    """A job that one process has prepared, which does items in turn and reads ahead."""

    def run_all(self, items: Iterable[Item], progress: Progress | None = None) -> Iterator[tuple[Item, Given]]:
        """Items and results; an item is taken from ``items`` when it is about to be read."""


class Job(Protocol[Taken, Given]):
    """What is to be done with single items; pickled to get to each process."""

    def start(self, device: int | None) -> Worker[Taken, Given]:
        """Prepare the work in the process that will do it.

        Args:
            device: which of the processes of this machine it is, from 0; None where the cluster knows.

        Raises:
            InputError: the job cannot be done here.
        """

    def lost(self, item: Taken, reason: str) -> Given:
        """The result of an item that ended every process that began it, such as for lack of memory."""


class StreamJob(Protocol[Item, Given]):
    """As `Job`, for processes that read ahead."""

    def start(self, device: int | None) -> Stream[Item, Given]:
        """As `Job.start`."""

    def lost(self, item: Item, reason: str) -> Given:
        """As `Job.lost`."""
