"""What workflows report, printed to the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rich.progress

from medsam_adapt.workflows.reporter import Progress, Reporter

from . import console


class _Bar(Progress):
    """One task of a progress bar."""

    def __init__(self, bar: rich.progress.Progress, title: str, total: int | None) -> None:
        self.bar = bar
        self.task = bar.add_task(title, total=total, detail="")

    def update(
        self, advance: int = 0, *, completed: int | None = None, detail: str | None = None, total: int | None = None
    ) -> None:
        given = {"detail": detail, "total": total}
        shown: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self.bar.update(self.task, advance=advance if completed is None else None, completed=completed, **shown)

    def line(self, text: str, in_log: bool = False) -> None:
        if not (in_log and self.bar.console.is_terminal):
            self.bar.console.print(text, markup=False)


class ConsoleReporter(Reporter):
    """Prints notes and progress bars."""

    worker = "medsam_adapt.cli.training_process"

    @property
    def prints(self) -> bool:  # type: ignore[override]
        """Whether the command is not quiet."""
        return not console.console.quiet

    @property
    def logs(self) -> bool:  # type: ignore[override]
        """Whether the command is verbose."""
        return console.is_verbose()

    def note(self, text: str) -> None:
        console.say(text)

    def warn(self, text: str) -> None:
        console.warn(text)

    @contextmanager
    def progress(self, title: str, total: int | None = None) -> Iterator[Progress]:
        with console.progress_bar() as bar:
            yield _Bar(bar, title, total)


TERMINAL = ConsoleReporter()
