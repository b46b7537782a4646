"""``medsam-adapt evaluate``: score a run on labelled volumes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from medsam_adapt.bundle import read_config, workflow
from medsam_adapt.data.cases import CaseList, find_cases
from medsam_adapt.data.layouts import class_key
from medsam_adapt.errors import InputError
from medsam_adapt.runs import RunRecord, read_run, require_trained

from .console import Device, RunFolder, console, progress_bar, say, warn


def evaluate(
    run: RunFolder,
    data: Annotated[
        Path | None,
        typer.Option(help="Other labelled volumes than the run's held-out ones.", show_default=False),
    ] = None,
    layout: Annotated[str, typer.Option(help="Layout of --data on disk.")] = "auto",
    device: Device = "auto",
) -> None:
    """Score a run: DSC and IoU per volume and class, into RUN/metrics.csv, RUN/metrics.json and RUN/pictures."""
    summary = run_evaluation(run, data, layout, device)
    _print_table(summary)
    say(f"Written: {run / 'metrics.csv'}, {run / 'metrics.json'}, {run / 'pictures'}")


def run_evaluation(run: Path, data: Path | None = None, layout: str = "auto", device: str = "auto") -> dict[str, Any]:
    """Evaluate a run through its shipped bundle's ``evaluate.json``; returns the content of ``metrics.json``."""
    record = read_run(run)
    require_trained(run)
    values = {**record.config_values(), **record.adapter.settings}
    if data is None:
        data = Path(record.dataset_dir)
        if not record.held_out:
            warn("the run held nothing out: these are scores on its own training cases.")
    else:
        found = find_cases(data, layout)
        values |= {"layout": found.layout, "cases": None, "label_ids": _matching_ids(found, record)}
    if record.prompt != "none":
        warn(f"the run was trained with a {record.prompt} prompt: prompts are taken from the labels it is scored on.")

    from medsam_adapt.engine import select_device

    logging.disable(logging.INFO)
    known = read_config(record.bundle, "evaluate")["settings"]
    flow = workflow(
        record.bundle,
        "evaluate",
        {
            "settings": {key: values[key] for key in known},
            "dataset_dir": str(data),
            "output_dir": str(run),
            "bundle_root": str(run),
            "device": select_device(device),
        },
        workflow_type="infer",
    )
    evaluator = flow.evaluator
    with progress_bar() as progress:
        from ignite.engine import Events

        task = progress.add_task("scoring", total=evaluator.state.epoch_length, detail="")
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda _: progress.update(task, advance=1))
        flow.run()
    content: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return content


def _matching_ids(found: CaseList, record: RunRecord) -> list[int]:
    """The ids that the run's classes have in another data set: by name, or the run's own where it names none."""
    if not found.classes:
        return record.label_ids
    ids = {class_key(name): label_id for label_id, name in found.classes.items()}
    missing = [name for name in record.class_names if class_key(name) not in ids]
    if missing:
        raise InputError(
            f"{found.root} has no class '{missing[0]}', which the run segments: score it on data that has."
        )
    return [ids[class_key(name)] for name in record.class_names]


def _print_table(summary: dict[str, Any]) -> None:
    table = Table("class", "DSC", "IoU", "volumes", "undefined", box=None)
    for name, row in summary["classes"].items():
        table.add_row(name, _number(row["dsc"]), _number(row["iou"]), str(row["cases"]), str(row["undefined"]))
    mean = summary["mean"]
    table.add_row("mean", _number(mean["dsc"]), _number(mean["iou"]), style="bold")
    console.print(table)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
