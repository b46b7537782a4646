"""What commands print: messages, tables and progress bars."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from medsam_adapt.core.errors import InputError

_LONGEST_NAME, _UNLIMITED = 40, 10_000  # columns of a terminal
console = Console(highlight=False, soft_wrap=True)
_errors = Console(highlight=False, soft_wrap=True, stderr=True)
_verbose = False


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """How much the command that begins prints, by its options ``--quiet`` and ``--verbose``."""
    global _verbose
    if quiet and verbose:
        raise InputError("--quiet: it excludes --verbose. Leave out one of them.")
    console.quiet, _verbose = quiet, verbose


def is_verbose() -> bool:
    """Whether log lines and tracebacks are printed."""
    return _verbose


def silence_logs(level: int = logging.INFO) -> None:
    """Print no log lines of this level or below, unless the command is verbose."""
    if not _verbose:
        logging.disable(level)


def only_json(wanted: bool) -> None:
    """From here on print nothing but :func:`print_json` on the standard output, if that is ``wanted``."""
    console.quiet = console.quiet or wanted


def print_json(content: Any) -> None:
    """Print JSON, also where the command is quiet otherwise."""
    print(json.dumps(content, indent=2))


def say(message: str) -> None:
    """Print a line."""
    console.print(message, markup=False)


def warn(message: str) -> None:
    """Print a line that begins with ``note:``; on the standard error where the command is quiet."""
    (_errors if console.quiet else console).print(f"[yellow]note:[/] {escape(message)}")


def show_table(table: Table) -> None:
    """Print a table without cutting a name or a number short, however narrow the terminal is.

    Only heads and long texts wrap; a table that needs more room than there is gets it.
    """
    for column in table.columns:
        whole = [*map(str, column.cells), *str(column.header).split()]  # a head wraps between its words
        widest = max((cell_len(Text.from_markup(text).plain) for text in whole), default=0)
        column.min_width = min(widest, _LONGEST_NAME)
        column.overflow = "fold"
    needed = Measurement.get(console, console.options.update(width=_UNLIMITED), table).minimum
    console.print(table, width=max(console.width, needed), soft_wrap=False, crop=False)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar with counts and the time left; it is cleared when done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress


@contextmanager
def download_bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar in bytes; call what it gives with the bytes so far and the bytes in all, where they are known."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
