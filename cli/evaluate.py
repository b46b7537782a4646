"""``medsam-adapt evaluate``: score a run on labelled volumes, or anybody's masks on a reference."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from medsam_adapt.scoring.metrics import METRICS
from medsam_adapt.workflows.evaluate import evaluate as workflow

from .console import only_json, print_json, say, show_table
from .options import DEVICES, PROTOCOL_HELP, Cluster, DeviceInPanel, Json, Overwrite, Part
from .reporter import TERMINAL

_HEADS = {
    "dsc": "DSC",
    "iou": "IoU",
    "hd95": "HD95 mm",
    "nsd": "NSD",
    "msd": "MSD mm",
    "volume_difference_ml": "ml off",
    "slice_dsc": "DSC per slice",
    "slice_dsc_pooled": "pooled",
}


_masks = partial(typer.Option, rich_help_panel="Masks instead of a run")
_metrics = partial(typer.Option, rich_help_panel="Metrics")

EPILOG = """Examples:

medsam-adapt evaluate runs/liver
medsam-adapt evaluate runs/liver --data other_hospital --output scores
medsam-adapt evaluate --pred masks --ref labels --output scores"""


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished run.", show_default=False)] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Other labelled volumes than the run's held-out ones.", show_default=False),
    ] = None,
    layout: Annotated[str, typer.Option(help="Layout of --data on disk; auto recognises it.")] = "auto",
    output: Annotated[Path | None, typer.Option(help="Folder of the scores.", show_default="that of the run")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    pred: Annotated[Path | None, _masks(help="Mask, or folder of masks, to score.", show_default=False)] = None,
    ref: Annotated[
        Path | None, _masks(help="Reference mask, or folder of masks of the same names.", show_default=False)
    ] = None,
    labels: Annotated[
        Path | None, _masks(help='JSON with the label names of --ref: {"1": "liver"}.', show_default=False)
    ] = None,
    metrics: Annotated[
        str | None,
        _metrics(help="all, or some of dsc,iou,hd95,nsd,msd,volume,slice_dsc.", show_default="by the protocol"),
    ] = None,
    protocol: Annotated[str, _metrics(help=PROTOCOL_HELP)] = "default",
    empty_policy: Annotated[
        str | None,
        _metrics(
            help="Score of a class empty in both masks: undefined, or challenge (1).", show_default="by the protocol"
        ),
    ] = None,
    tolerance: Annotated[
        str | None, _metrics(help="Tolerance of NSD in mm: 2, or 1,Larynx=2.", show_default="by the protocol")
    ] = None,
    convention: Annotated[
        str, _metrics(help="Definitions: ours, monai, medpy, seg-metrics or surface-distance; see docs/peers.md.")
    ] = "ours",
    device: DeviceInPanel = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes that score --pred.", rich_help_panel=DEVICES)] = 1,
    part: Part = None,
    cluster: Cluster = None,
) -> None:
    """Score a run, or the masks of --pred: DSC, IoU, HD95, NSD and volumes per case and class.

    Writes metrics.csv and metrics.json (and for a run pictures/) into the run's folder, or into --output.
    """
    only_json(as_json)
    scored = workflow(
        run,
        data=data,
        layout=layout,
        pred=pred,
        ref=ref,
        labels=labels,
        output=output,
        metrics=metrics,
        protocol=protocol,
        empty_policy=empty_policy,
        tolerance=tolerance,
        convention=convention,
        workers=workers,
        part=part,
        cluster=cluster,
        device=device,
        overwrite=overwrite,
        reporter=TERMINAL,
    )
    if as_json:
        print_json(scored.summary)
    if scored.missing:
        left = ", ".join(map(str, scored.missing))
        say(f"Written: {scored.files[0]}. metrics.json is written once these parts are done: {left}.")
        return
    _print_table(scored.summary)
    say(f"Written: {', '.join(map(str, scored.files))}")


def _print_table(summary: Mapping[str, Any]) -> None:
    metrics = [name for name in _HEADS if name in summary["mean"]]
    counts = ["cases", "undefined"]
    counts += [kind for kind in ("missed", "spurious") if any(row[kind] for row in summary["classes"].values())]
    table = Table("class", *(_HEADS[name] for name in metrics), *counts, box=None)
    for name, row in summary["classes"].items():
        scores = (number(row[metric], metric) for metric in metrics)
        table.add_row(escape(name), *scores, *(str(row[count]) for count in counts))
    table.add_row("mean", *(number(summary["mean"][metric], metric) for metric in metrics), style="bold")
    show_table(table)
    if (intervals := summary["intervals"]["dsc"])[0] is not None:
        say(
            f"Mean DSC {number(summary['mean']['dsc'])}, 95% interval {number(intervals[0])} to {number(intervals[1])}."
        )
    say(f"Mean IoU with the background as a class: {number(summary['mean']['iou_with_background'])}.")


def number(value: float | None, metric: str = "dsc") -> str:
    """A score as the tables show it: lengths and volumes with one decimal, shares with three, undefined as a dash."""
    has_unit = metric in METRICS and METRICS[metric].unit
    return "–" if value is None else f"{value:.1f}" if has_unit else f"{value:.3f}"
