"""One HTML page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole
from medsam_adapt.core.output_folder import check_output
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.runs.record import RunRecord, read_run, require_trained
from medsam_adapt.scoring.summary import METRICS_FILE, read_metrics
from medsam_adapt.workflows.arguments import PathLike, path_or_none
from medsam_adapt.workflows.evaluate import evaluate_run, matching_ids
from medsam_adapt.workflows.reporter import SILENT, Reporter


def write_report(
    run: PathLike,
    output: PathLike | None = None,
    *,
    data: PathLike | None = None,
    layout: str = "auto",
    images: bool = True,
    keep_identifiers: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Write the page, as ``medsam-adapt report`` does; each argument is the option of its name."""
    folder, volumes = Path(run), path_or_none(data)
    record = read_run(folder)
    require_trained(folder)
    path = _check_page(folder, path_or_none(output), overwrite)
    if volumes is not None:
        find_cases(volumes, layout)
    if not (folder / METRICS_FILE).is_file():
        reporter.note(f"{folder} has no scores yet: evaluating it first.")
        evaluate_run(folder, volumes, layout, device, reporter=reporter)
    metrics = read_metrics(folder)
    if unknown := sorted(set(metrics["classes"]) ^ set(record.class_names)):
        raise InputError(
            f"{folder / METRICS_FILE} and the run differ in the class '{unknown[0]}': run 'medsam-adapt evaluate' "
            "again."
        )

    from medsam_adapt.report.run import report_of

    with reporter.progress("segmenting the cases shown") as progress:
        page, notes = report_of(
            folder,
            record,
            metrics,
            _place_of(folder, record, volumes, layout, reporter) if images else None,
            device,
            images,
            keep_identifiers,
            lambda done, total: progress.update(completed=done),
        )
    for note in notes:
        reporter.warn(note)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")  # the hashes in its policy depend on these bytes
    return path


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


def _place_of(run: Path, record: RunRecord, data: Path | None, layout: str, reporter: Reporter) -> Any:
    """Location of the volumes; None if the run's data set no longer exists."""
    from medsam_adapt.report.run import Place

    if data is not None:
        found = find_cases(data, layout)
        return Place(data, found.layout, matching_ids(found, record))
    if not record.dataset_dir or not Path(record.dataset_dir).exists():
        reporter.warn(f"the data set of {run} was not found, so the page has no slices: pass its folder with --data.")
        return None
    return Place(Path(record.dataset_dir), record.layout, record.label_ids)
