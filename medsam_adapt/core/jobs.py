"""Work on many items by other processes: what each prepares once, and what it then does for every item.

A job and its items hold names, paths and settings only, since they pass from process to process, and on a cluster
through its scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Progress = Callable[[Any, int], None]  # an item, and how much of it was just done


class Worker(Protocol[Item, Result]):
    """A job that one process has prepared."""

    def run(self, item: Item) -> Result:
        """One item; several threads may call this. What is wrong with the item alone is a result, not an error."""

    def run_all(self, items: Iterable[Item], progress: Progress | None = None) -> Iterator[tuple[Item, Result]]:
        """Items in turn; takes one from ``items`` when it is about to read it."""


class Job(Protocol[Item, Result]):
    """What is to be done; pickled to get to each process."""

    def start(self, device: int | None) -> Worker[Item, Result]:
        """Prepare the work in the process that will do it.

        Args:
            device: which of the processes of this machine it is, from 0; None where the cluster knows.

        Raises:
            InputError: the job cannot be done here.
        """

    def lost(self, item: Item, reason: str) -> Result:
        """The result of an item that ended every process that began it, such as for lack of memory."""
