"""One HTML page about a run, made from what its evaluation stored."""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole
from medsam_adapt.core.output_folder import check_output
from medsam_adapt.report.run import report_of
from medsam_adapt.runs.record import read_run, require_trained
from medsam_adapt.scoring.summary import METRICS_FILE, read_metrics
from medsam_adapt.workflows.arguments import PathLike, path_or_none
from medsam_adapt.workflows.reporter import SILENT, Reporter


def write_report(
    run: PathLike,
    output: PathLike | None = None,
    *,
    images: bool = True,
    keep_identifiers: bool = False,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Write the page, as ``medsam-adapt report`` does; each argument is the option of its name.

    Args:
        run: folder of an evaluated run.
        output: the HTML file; ``report.html`` in the run's folder when None.
        images: show slices of patients.
        keep_identifiers: also show the folders of run and data set.
        overwrite: replace ``output``.
        reporter: receives notes.

    Returns:
        The file.

    Raises:
        InputError: the run was not evaluated, or ``output`` cannot be written.
    """
    folder = Path(run)
    record = read_run(folder)
    require_trained(folder)
    path = _check_page(folder, path_or_none(output), overwrite)
    if not (folder / METRICS_FILE).is_file():
        raise InputError(f"{folder} has no scores: run 'medsam-adapt evaluate {folder}' first.")
    metrics = read_metrics(folder)
    if unknown := sorted(set(metrics["classes"]) ^ set(record.class_names)):
        raise InputError(
            f"{folder / METRICS_FILE} and the run differ in the class '{unknown[0]}': run 'medsam-adapt evaluate "
            f"{folder}' again."
        )
    page, notes = report_of(folder, record, metrics, images, keep_identifiers)
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
