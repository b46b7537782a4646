"""The command line: one file per command, and one place that turns errors into a sentence and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from medsam_adapt.core.errors import InputError, user_error

from .lazy_group import LazyGroup

app = typer.Typer(
    name="medsam-adapt",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    epilog="Start with 'medsam-adapt demo'. Usual order with labelled scans: data check, train, evaluate, predict.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from medsam_adapt.core.versions import installed_version

        print(f"medsam-adapt {installed_version()}")
        raise typer.Exit


@app.callback()
def medsam_adapt(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Fine-tune the Segment Anything Model on your own 3D volumes, and segment new patients."""


_TURNS = "2000"  # of a thread's waiting loop; libgomp has a waiting thread turn much longer than that


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command: exit code 0 when done, 1 when it failed while running, 2 for wrong input."""
    _wait_asleep()
    try:
        app(args=None if arguments is None else list(arguments))
    except Exception as error:
        explained = user_error(error)
        if explained is None:
            raise
        from .console import is_verbose

        if is_verbose():
            traceback.print_exception(error)
        print(f"error: {explained}", file=sys.stderr)
        sys.exit(2 if isinstance(explained, InputError) else 1)


def _wait_asleep() -> None:
    """Have the threads of a product that is done give their core away soon, unless the user's environment sets it.

    Where other programs want the cores too, libgomp's threads would spend most of a training waiting for each other,
    each on a core that the other one needs. It looks here when PyTorch is imported, which only commands do.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)
