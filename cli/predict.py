"""``medsam-adapt predict``: segment new volumes with a run, or with several as an ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam_adapt.outputs import format_names
from medsam_adapt.workflows.predict import predict as workflow

from .console import only_json, print_json, say
from .options import Device, Json, Overwrite, Series
from .reporter import TERMINAL

_FORMATS = " | ".join(format_names())
_OUTPUT, _PROMPTS, _CLEANING = "What is written", "Prompts, for a run trained with them", "Clean-up, class by class"


def predict(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folder of a finished run, or several; or a name from 'weights list'."),
    ],
    inputs: Annotated[
        Path,
        typer.Option("--input", "-i", help="A volume, a DICOM folder, a zip, a folder of volumes, or a data set."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the masks.")],
    layout: Annotated[str, typer.Option(help="Layout of a data set on disk; recognised when not given.")] = "auto",
    series: Series = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, or auto: bf16 on a GPU, else fp32.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Slices at a time.", show_default="8; on a GPU by its memory")
    ] = None,
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip volumes whose outputs all exist.")
    ] = False,
    fail_fast: Annotated[
        bool,
        typer.Option("--fail-fast", help="Stop at the first volume that cannot be read."),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(help="K/N: only part K of N of the volumes.", show_default="that of torchrun or SLURM, else all"),
    ] = None,
    flips: Annotated[
        bool, typer.Option("--flips", help="Average over mirrored slices too: four times slower.")
    ] = False,
    format: Annotated[str, typer.Option(help=_FORMATS, rich_help_panel=_OUTPUT)] = "nifti",
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="Write one folder per volume, one file per class.", rich_help_panel=_OUTPUT),
    ] = False,
    itk_snap: Annotated[
        bool, typer.Option("--itk-snap", help="Names and colours for ITK-SNAP, beside NIfTI.", rich_help_panel=_OUTPUT)
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="A map (0 to 1) for each class.", rich_help_panel=_OUTPUT)
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="A map: entropy, from 0 to 1.", rich_help_panel=_OUTPUT)
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="JSON report: volumes in ml, and flags for review.", rich_help_panel=_OUTPUT),
    ] = None,
    keep_identifiers: Annotated[
        bool,
        typer.Option("--keep-identifiers", help="Write complete input paths to the report.", rich_help_panel=_OUTPUT),
    ] = False,
    prompts: Annotated[
        Path | None, typer.Option(help="JSON of boxes and points; see docs/prompts.md.", rich_help_panel=_PROMPTS)
    ] = None,
    prompts_from_run: Annotated[
        Path | None, typer.Option(help="A run without prompts proposes, this one refines.", rich_help_panel=_PROMPTS)
    ] = None,
    prompts_from: Annotated[
        Path | None,
        typer.Option(help="Labels (a file or a folder): it sees the answer, for evaluation.", rich_help_panel=_PROMPTS),
    ] = None,
    propagate: Annotated[
        bool, typer.Option("--propagate", help="Follow --prompts to neighbouring slices.", rich_help_panel=_PROMPTS)
    ] = False,
    largest_component: Annotated[
        bool, typer.Option("--largest-component", help="Keep the largest piece.", rich_help_panel=_CLEANING)
    ] = False,
    fill_holes: Annotated[
        bool, typer.Option("--fill-holes", help="Fill enclosed background.", rich_help_panel=_CLEANING)
    ] = False,
    no_clean_up: Annotated[
        bool,
        typer.Option("--no-clean-up", help="Keep fragments of classes that are one piece.", rich_help_panel=_CLEANING),
    ] = False,
    min_volume: Annotated[
        float, typer.Option(min=0, help="Remove pieces smaller than this many ml.", rich_help_panel=_CLEANING)
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Segment volumes; each gives OUTPUT/<name>_seg.nii.gz, or another format, in its own geometry."""
    only_json(as_json)
    files = workflow(
        runs,
        inputs,
        output,
        layout=layout,
        series=series,
        device=device,
        precision=precision,
        batch_size=batch_size,
        overwrite=overwrite,
        skip_existing=skip_existing,
        fail_fast=fail_fast,
        part=part,
        flips=flips,
        format=format,
        per_class=per_class,
        itk_snap=itk_snap,
        probabilities=probabilities,
        uncertainty=uncertainty,
        report=report,
        keep_identifiers=keep_identifiers,
        prompts=prompts,
        prompts_from_run=prompts_from_run,
        prompts_from=prompts_from,
        propagate=propagate,
        largest_component=largest_component,
        fill_holes=fill_holes,
        no_clean_up=no_clean_up,
        min_volume=min_volume,
        reporter=TERMINAL,
    )
    if as_json:
        print_json({"masks": [str(path) for path in files], "report": None if report is None else str(report)})
    if files:
        say(f"Written: {files[0] if len(files) == 1 else f'{len(files)} masks in {output}'}")
    else:
        say(f"All masks are there already: {output}")
