"""``medsam-adapt suggest``: which scans to label next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medsam_adapt.core.text import counted, shortened

from .console import only_json, print_json, progress_bar, say, show_table, warn
from .options import BatchSize, DeviceInPanel, Json, Series

if TYPE_CHECKING:  # it imports torch
    from medsam_adapt.suggestion.suggest import Suggestions


def suggest(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN... FOLDER", help="Run folders, or weights; then the folder of scans."),
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of scans to suggest.")] = 5,
    data: Annotated[
        Path | None, typer.Option(help="Data set of the runs, if it has moved.", show_default=False)
    ] = None,
    layout: Annotated[str, typer.Option(help="Layout of FOLDER on disk; recognised when not given.")] = "auto",
    series: Series = None,
    device: DeviceInPanel = "auto",
    batch_size: BatchSize = None,
    as_json: Json = False,
) -> None:
    """Rank scans without labels: which ones to label next.

    Uncertainty of the run, disagreement of several runs (such as the folds of a cross-validation), and distance to
    everything labelled or suggested before are averaged by rank. Writes nothing.
    """
    from medsam_adapt.core.errors import InputError

    only_json(as_json)
    *folders, source = runs
    if not folders:
        raise InputError(f"{source}: it is the only argument. Give one or more runs, and then the folder of scans.")

    from medsam_adapt.suggestion.suggest import suggest as rank

    with progress_bar() as progress:
        task = progress.add_task("scans", total=None, detail="")
        found = rank(
            folders,
            source,
            count,
            data=data,
            layout=layout,
            series=series,
            device=device,
            batch_size=batch_size,
            progress=lambda name, done, total: progress.update(task, completed=done, total=total, detail=name),
        )
    if as_json:
        print_json(found.as_json())
    _print(found)
    if found.failed:
        listed = "\n".join(shortened(list(found.failed.values())))
        raise InputError(f"{listed}\nLeft out of the ranking, since unreadable: {counted(len(found.failed), 'scan')}.")


def _print(found: Suggestions) -> None:
    for note in found.notes:
        warn(f"{note.rstrip('.')}.")
    if found.left_out:
        warn(f"left out {counted(len(found.left_out), 'scan')} with labels.")
    table = Table("", "scan", "score", "uncertainty", "disagreement", "distance", box=None)
    for scan in found.scans:
        values = (scan.score, scan.uncertainty, scan.disagreement, scan.distance)
        name = escape(scan.name) + ("" if scan.found is not False else " (nothing found)")
        table.add_row(str(scan.rank), name, *("–" if value is None else f"{value:.3f}" for value in values))
    show_table(table)
    say(f"{counted(found.considered, 'scan')} without labels, compared with {found.labelled} labelled.")
