"""``medsam-adapt report``: a run as one HTML page that anybody can open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.runs.record import RunRecord, read_run, require_trained
from medsam_adapt.scoring.summary import METRICS_FILE, read_metrics

from .console import Device, Overwrite, RunFolder, check_output, progress_bar, say, warn
from .evaluate import matching_ids, run_evaluation


def report(
    run: RunFolder,
    output: Annotated[
        Path | None, typer.Option(help="HTML file to write; without it, report.html in the run.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled volumes, where they moved or the run was scored on others.")
    ] = None,
    layout: Annotated[str, typer.Option(help="Layout of --data on disk.")] = "auto",
    images: Annotated[bool, typer.Option("--images/--no-images", help="Show slices of patients.")] = True,
    keep_identifiers: Annotated[
        bool, typer.Option("--keep-identifiers", help="Also tell the folders of run and data set.")
    ] = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """One HTML page of a run: scores, training, pictures, and a viewer of its worst, median and best case.

    The page needs no network and no other file. It holds slices of patients, unless --no-images.
    """
    record = read_run(run)
    require_trained(run)
    path = _check_page(run, output, overwrite)
    if data is not None:
        find_cases(data, layout)
    if not (run / METRICS_FILE).is_file():
        say(f"{run} has no scores yet: they are computed first, as by 'medsam-adapt evaluate'.")
        run_evaluation(run, data, layout, device)
    metrics = read_metrics(run)
    if unknown := sorted(set(metrics["classes"]) ^ set(record.class_names)):
        raise InputError(f"{run / METRICS_FILE} and the run differ in the class '{unknown[0]}': score the run anew.")

    from medsam_adapt.report.run import report_of

    with progress_bar() as progress:
        task = progress.add_task("segmenting the cases shown", total=None, detail="")
        page, notes = report_of(
            run,
            record,
            metrics,
            _place_of(run, record, data, layout) if images else None,
            device,
            images,
            keep_identifiers,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    for note in notes:
        warn(note)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")  # its policy counts on these very bytes
    say(f"Written: {path}, {decimal(path.stat().st_size)}. It opens in any browser, without a network.")


def _check_page(run: Path, output: Path | None, overwrite: bool) -> Path:
    """Where the page goes; a report that an earlier call left in the run may be replaced.

    Raises:
        InputError: something is there, or it cannot be written.
    """
    path = output or run / "report.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--output {path} is no HTML file: name one that ends in .html.")
    if path.is_dir() or (output is not None and path.exists() and not overwrite):
        raise InputError(f"{path} already exists: name another file, or add --overwrite.")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} does not exist: make the folder first, or name a file in another one.")
    check_output(path.parent, overwrite=True)
    return path


def _place_of(run: Path, record: RunRecord, data: Path | None, layout: str) -> Any:
    """Where the volumes are; None where the run's own are no longer there."""
    from medsam_adapt.report.run import Place

    if data is not None:
        found = find_cases(data, layout)
        return Place(data, found.layout, matching_ids(found, record))
    if not record.dataset_dir or not Path(record.dataset_dir).exists():
        warn(f"the data set of {run} is not where it was: the page has no slices; --data FOLDER names the place.")
        return None
    return Place(Path(record.dataset_dir), record.layout, record.label_ids)
