"""``medsam-adapt predict``: segment new volumes with a run, or with several as an ensemble."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from medsam_adapt.core.text import counted
from medsam_adapt.outputs import format_names
from medsam_adapt.workflows.predict import predict as workflow

from .console import only_json, print_json, say
from .options import DEVICES, BatchSize, Cluster, DeviceInPanel, Json, Overwrite, Part, Series
from .reporter import TERMINAL

_FORMATS = " | ".join(format_names())
_written = partial(typer.Option, rich_help_panel="What is written")
_prompts = partial(typer.Option, rich_help_panel="Prompts (for a run trained with prompts, or pretrained weights)")
_cleaning = partial(typer.Option, rich_help_panel="Clean-up, class by class")
_devices = partial(typer.Option, rich_help_panel=DEVICES)

EPILOG = """Examples:

medsam-adapt predict runs/liver -i new_scans -o masks
medsam-adapt predict runs/liver -i new_scans -o masks --report report.json
medsam-adapt predict lite_medsam -i scan.nii.gz --prompts boxes.json -o masks"""


def predict(
    runs: Annotated[
        list[Path], typer.Argument(help="Folder of a finished run, or several; or a name from 'weights list'.")
    ],
    inputs: Annotated[
        Path, typer.Option("--input", "-i", help="A volume, a DICOM folder, a zip, a folder of volumes, or a data set.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the masks.")],
    layout: Annotated[str, typer.Option(help="Layout of a data set on disk; recognised when not given.")] = "auto",
    series: Series = None,
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip volumes whose outputs all exist.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first volume that cannot be read.")
    ] = False,
    flips: Annotated[
        bool, typer.Option("--flips", help="Average over mirrored slices too: four times slower.")
    ] = False,
    as_json: Json = False,
    device: DeviceInPanel = "auto",
    precision: Annotated[str, _devices(help="fp32, bf16, or auto: bf16 on a GPU, else fp32.")] = "auto",
    batch_size: BatchSize = None,
    gpus: Annotated[
        int | None,
        _devices(min=1, help="Processes, one per GPU; with --device cpu, on the CPU.", show_default="1", metavar="N"),
    ] = None,
    part: Part = None,
    cluster: Cluster = None,
    format: Annotated[str, _written(help=_FORMATS)] = "nifti",
    per_class: Annotated[
        bool, _written("--per-class", help="Write one folder per volume, one file per class.")
    ] = False,
    itk_snap: Annotated[bool, _written("--itk-snap", help="Also write names and colours for ITK-SNAP.")] = False,
    probabilities: Annotated[
        bool, _written("--probabilities", help="Also write a map (0 to 1) for each class.")
    ] = False,
    uncertainty: Annotated[
        bool, _written("--uncertainty", help="Also write a map of the entropy, from 0 to 1.")
    ] = False,
    report: Annotated[
        Path | None, _written(help="JSON file to write: volumes in ml, and flags for review.", show_default=False)
    ] = None,
    keep_identifiers: Annotated[
        bool, _written("--keep-identifiers", help="Write complete input paths to the report.")
    ] = False,
    prompts: Annotated[Path | None, _prompts(help="JSON of boxes and points; see docs/prompts.md.")] = None,
    prompts_from_run: Annotated[Path | None, _prompts(help="A run without prompts, whose masks give prompts.")] = None,
    prompts_from: Annotated[
        Path | None, _prompts(help="Labels (file or folder) to take prompts from, for evaluation.")
    ] = None,
    propagate: Annotated[bool, _prompts("--propagate", help="Follow --prompts to neighbouring slices.")] = False,
    largest_component: Annotated[bool, _cleaning("--largest-component", help="Keep the largest piece.")] = False,
    fill_holes: Annotated[bool, _cleaning("--fill-holes", help="Fill enclosed background.")] = False,
    no_clean_up: Annotated[bool, _cleaning("--no-clean-up", help="Skip the clean-up that training chose.")] = False,
    min_volume: Annotated[float, _cleaning(min=0, help="Remove pieces smaller than this many ml.")] = 0.0,
) -> None:
    """Segment volumes. Writes OUTPUT/<name>_seg.nii.gz (or see --format) on the grid of each input volume."""
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
        gpus=gpus,
        cluster=cluster,
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
        several = f"{counted(len(files), 'mask')} in {output}"
        say(f"Written: {files[0] if len(files) == 1 else several}")
    else:
        say(f"All masks are there already: {output}")
