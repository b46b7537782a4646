"""``medsam-adapt report``: a run as one HTML page."""

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
        Path | None,
        typer.Option(help="HTML file to write; by default report.html in the run folder.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled volumes, if they have moved or the run was scored on others.")
    ] = None,
    layout: Annotated[str, typer.Option(help="Layout of --data on disk.")] = "auto",
    images: Annotated[bool, typer.Option("--images/--no-images", help="Show slices of patients.")] = True,
    keep_identifiers: Annotated[
        bool, typer.Option("--keep-identifiers", help="Also show the folders of run and data set.")
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
        say(f"{run} has no scores yet: evaluating it first.")
        run_evaluation(run, data, layout, device)
    metrics = read_metrics(run)
    if unknown := sorted(set(metrics["classes"]) ^ set(record.class_names)):
        raise InputError(
            f"{run / METRICS_FILE} and the run differ in the class '{unknown[0]}': run 'medsam-adapt evaluate' again."
        )

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
        temporary.write_text(page, encoding="utf-8", newline="\n")  # the hashes in its policy depend on these bytes
    say(f"Written: {path}, {decimal(path.stat().st_size)}. It opens in any browser, without a network.")


def _check_page(run: Path, output: Path | None, overwrite: bool) -> Path:
    """Path of the page; an earlier report in the run folder may be replaced.

    Raises:
        InputError: the file exists, or it cannot be written.
    """
    path = output or run / "report.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--output {path} is not an HTML file: use a name that ends in .html.")
    if path.is_dir() or (output is not None and path.exists() and not overwrite):
        raise InputError(f"{path} already exists: choose another file, or add --overwrite.")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} does not exist: create the folder first, or choose a file in another one.")
    check_output(path.parent, overwrite=True)
    return path


def _place_of(run: Path, record: RunRecord, data: Path | None, layout: str) -> Any:
    """Location of the volumes; None if the run's data set no longer exists."""
    from medsam_adapt.report.run import Place

    if data is not None:
        found = find_cases(data, layout)
        return Place(data, found.layout, matching_ids(found, record))
    if not record.dataset_dir or not Path(record.dataset_dir).exists():
        warn(f"the data set of {run} was not found, so the page has no slices: pass its folder with --data.")
        return None
    return Place(Path(record.dataset_dir), record.layout, record.label_ids)
