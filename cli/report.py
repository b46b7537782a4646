"""``medsam-adapt report``: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from medsam_adapt.workflows.report import write_report

from .console import say
from .options import Overwrite, RunFolder
from .reporter import TERMINAL


def report(
    run: RunFolder,
    output: Annotated[
        Path | None,
        typer.Option(help="HTML file to write; by default report.html in the run folder.", show_default=False),
    ] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Show slices of patients.")] = True,
    keep_identifiers: Annotated[
        bool, typer.Option("--keep-identifiers", help="Also show the folders of run and data set.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """One HTML page of a run: scores, training, pictures, and a viewer of its worst, median and best case.

    It shows what 'evaluate' stored in the run's folder, and loads no network. The page needs no network connection and
    no other file. It holds slices of patients, unless --no-images.
    """
    path = write_report(
        run,
        output,
        images=images,
        keep_identifiers=keep_identifiers,
        overwrite=overwrite,
        reporter=TERMINAL,
    )
    say(f"Written: {path}, {decimal(path.stat().st_size)}. It opens in any browser, without a network.")
