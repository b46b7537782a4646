"""How a workflow shows what it does: a reporter is passed in, and the one here shows nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """How far one task is; this one shows nothing."""

    def update(
        self, advance: int = 0, *, completed: int | None = None, detail: str | None = None, total: int | None = None
    ) -> None:
        """Show progress.

        Args:
            advance: how many units of work are done since the last call.
            completed: how many are done in all, in place of ``advance``.
            detail: what is being worked on.
            total: units of work, where they are known only now.
        """

    def line(self, text: str, in_log: bool = False) -> None:
        """Show a line that stays.

        Args:
            text: of the line.
            in_log: whether the line is for places that show no moving bar, such as a file.
        """


class Reporter:
    """Receives what a workflow has to show. Subclass it and override what you want to see.

    Attributes:
        prints: whether processes that the workflow starts may print to the terminal.
        logs: whether the log lines of MONAI and ignite are kept.
        worker: the module that each process of a training on several devices runs.
    """

    prints = False
    logs = False
    worker = "medsam_adapt.workflows.training_process"

    def note(self, text: str) -> None:
        """A line of information, such as what was recognised."""

    def warn(self, text: str) -> None:
        """What a user must know before they trust the result."""

    @contextmanager
    def progress(self, title: str, total: int | None = None) -> Iterator[Progress]:
        """Progress of a task for the time of the block.

        Args:
            title: of the task.
            total: units of work, None where it is unknown.
        """
        yield Progress()


SILENT = Reporter()


@contextmanager
def quiet_logs(reporter: Reporter, level: int = logging.INFO) -> Iterator[None]:
    """Drop log lines of this level or below within the block, unless the reporter keeps them."""
    root = logging.getLogger()
    level_before, disabled_before = root.level, root.manager.disable
    root.setLevel(logging.WARNING)
    if not reporter.logs:
        logging.disable(max(level, disabled_before))
    try:
        yield
    finally:
        root.setLevel(level_before)
        logging.disable(disabled_before)
