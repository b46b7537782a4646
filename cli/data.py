"""``medsam-adapt data check|convert|split``: look at a data set, bring it to a plain form, deal out its patients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from medsam_adapt.config import FOLDS
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.parts import parse_part, part_of_environment
from medsam_adapt.core.text import counted, shortened

from .console import print_json, progress_bar, say, show_table, warn
from .options import Cluster, Json, Overwrite, Part, Series
from .reporter import TERMINAL

if TYPE_CHECKING:
    from medsam_adapt.data.datasets.survey import Survey

app = typer.Typer(help="Check, convert and split data sets.", no_args_is_help=True)
MEASURES = ("voxels", "mm", "axes", "intensities")
Folder = Annotated[Path, typer.Argument(help="Folder of the data set.", show_default=False)]
Layout = Annotated[str, typer.Option(help="Layout of the data on disk; auto recognises it.")]


@app.command()
def check(
    folder: Folder,
    layout: Layout = "auto",
    series: Series = None,
    as_json: Json = False,
) -> None:
    """List the cases, and everything that is wrong with them."""
    from medsam_adapt.data.datasets.survey import survey

    if as_json:
        seen = survey(folder, layout, series=series)
        print_json(seen.as_json())
        raise typer.Exit(2 if seen.problems else 0)
    with progress_bar() as progress:
        task = progress.add_task("reading", total=None, detail="")
        seen = survey(folder, layout, lambda case, total: progress.update(task, advance=1, total=total), series)
    _print(folder, seen)
    for warning in shortened(seen.notes):
        warn(warning)
    if seen.problems:
        count = len(seen.problems)
        raise InputError("\n".join([f"{counted(count, 'problem')} in {folder}:", *seen.problems]))
    count = len(seen.notes)
    say(f"No problems, but {counted(count, 'warning')}." if count else "No problems found.")


def _print(folder: Path, seen: Survey) -> None:
    if seen.cases is None:
        return
    say(f"{folder}: {counted(len(seen.looks), 'case')} in layout '{seen.cases.layout}'.")
    if seen.cases.images:
        say(f"Images of a case: {', '.join(seen.cases.images)}.")
    table = Table("case", *(Column(name, no_wrap=True) for name in MEASURES), "labelled voxels", box=None)
    for row in seen.as_json()["cases"]:
        if row["shape"] is None:
            table.add_row(row["id"], "unreadable")
            continue
        table.add_row(
            row["id"],
            " × ".join(map(str, row["shape"])),
            " × ".join(f"{length:.3g}" for length in row["spacing"]),
            row["orientation"],
            "unreadable" if row["intensities"] is None else " to ".join(f"{value:g}" for value in row["intensities"]),
            "-" if row["voxels"] is None else f"{sum(row['voxels'].values()):,}",
        )
    show_table(table)
    if seen.check.voxels:
        show_table(_class_table(seen))


def _class_table(seen: Survey) -> Table:
    """One row a class: how many of the labelled cases have it, and how much of it."""
    labelled = len(seen.check.voxels)
    table = Table("label", "class", f"in cases (of {labelled})", "fewest voxels", "median", "most", box=None)
    for class_id, name in seen.check.classes.items():
        counts = sorted(count[class_id] for count in seen.check.voxels.values() if count[class_id])
        extent = [f"{counts[at]:,}" for at in (0, len(counts) // 2, -1)] if counts else ["-"] * 3
        table.add_row(str(class_id), name, str(len(counts)), *extent)
    return table


@app.command()
def convert(
    folder: Folder,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the new data set.", show_default=False)],
    layout: Layout = "auto",
    series: Series = None,
    mapping: Annotated[
        Path | None,
        typer.Option("--map", help='JSON of the labels wanted: {"1": "liver"} or {"old": new}.', show_default=False),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", help="OLD=NEW, each an id or a name; repeat for more labels.", show_default=False),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Classes to keep, as in liver,spleen.")] = None,
    part: Part = None,
    cluster: Cluster = None,
    overwrite: Overwrite = False,
) -> None:
    """Copy a data set as NIfTI with a datalist.json, relabelled if wanted; continues after an interruption."""
    from medsam_adapt.data.datasets.relabel import read_map, read_pairs
    from medsam_adapt.workflows.convert import Conversion

    if mapping is not None and rename:
        raise InputError("--rename: it excludes --map. Put all changes into the map.")
    changes = read_map(mapping) if mapping is not None else read_pairs(rename) if rename else None
    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    conversion = Conversion(folder, output, layout, changes, names, overwrite, series)
    share = part_of_environment() if part is None else parse_part(part)
    made = conversion.convert(share, TERMINAL) if cluster is None else conversion.convert_on(cluster, TERMINAL)
    listed = ", ".join(f"{class_id} {name}" for class_id, name in made.classes.items())
    if made.unlabelled:
        warn(f"without a label: {', '.join(made.unlabelled)}.")
    cases = counted(len(made.cases), "case")
    if not made.finished:
        say(f"Converted {cases}, part {share}. datalist.json is written once all parts are done.")
        return
    say(f"Converted {cases}: {output}; labels: {listed or 'none'}")


@app.command()
def split(
    folder: Folder,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file to write.", show_default=False)],
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = FOLDS,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    layout: Layout = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Divide the patients into folds for a cross-validation."""
    from medsam_adapt.data.datasets.cases import find_cases
    from medsam_adapt.data.datasets.splits import fold_cases, save_split

    if output.is_dir() or not output.parent.is_dir():
        raise InputError(f"{output}: it cannot be written. Name a JSON file in a folder that exists.")
    if output.exists() and not overwrite:
        raise InputError(f"{output}: it already exists. Name another file, or add --overwrite.")
    found = find_cases(folder, layout)
    splits = fold_cases(found.cases, seed, folds)
    try:
        save_split(output, splits, seed)
    except OSError as error:
        raise InputError(f"{output}: it cannot be written ({error.strerror}). Choose another folder.") from error
    patients = len({case.patient_id for case in found.cases})
    say(
        f"{counted(patients, 'patient')} in {folds} folds: {output}\n"
        f"Next: medsam-adapt train --data {folder} --split-file {output} --fold 0 --output …"
    )
