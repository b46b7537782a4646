"""``medsam-adapt evaluate``: score a run on labelled volumes, or anybody's masks on a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from medsam_adapt.bundle.catalogue import read_config, workflow
from medsam_adapt.bundle.settings import run_knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.literals import plain_path
from medsam_adapt.core.text import class_key
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.volumes.case import CaseList
from medsam_adapt.data.volumes.image_set import refuse_other_images
from medsam_adapt.runs.record import RunRecord, data_of, read_run, require_trained
from medsam_adapt.scoring.metrics import METRICS, MetricRules
from medsam_adapt.scoring.protocols import SEES_THE_ANSWER, check_tolerances, choose_rules
from medsam_adapt.scoring.summary import METRICS_FILE, TABLE_FILE, read_metrics, summarise, write_metrics

from .console import (
    Device,
    Json,
    Overwrite,
    check_output,
    only_json,
    print_json,
    progress_bar,
    say,
    show_table,
    silence_logs,
    warn,
)

_FROM_RUN = ("settings", "slicing")  # of the config, filled in with the run's values
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


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished run.", show_default=False)] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Other labelled volumes than the run's held-out ones.", show_default=False),
    ] = None,
    layout: Annotated[str, typer.Option(help="Layout of --data on disk.")] = "auto",
    pred: Annotated[Path | None, typer.Option(help="Mask, or folder of masks, to score instead of a run.")] = None,
    ref: Annotated[Path | None, typer.Option(help="Reference mask, or folder of masks of the same names.")] = None,
    labels: Annotated[Path | None, typer.Option(help='Names of the labels in --ref, as in {"1": "liver"}.')] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the scores; without it, the run's.")] = None,
    metrics: Annotated[str | None, typer.Option(help="all, or some of dsc,iou,hd95,nsd,msd,volume,slice_dsc.")] = None,
    protocol: Annotated[str, typer.Option(help="default, segrap or papers; see docs/metrics.md.")] = "default",
    empty_policy: Annotated[
        str | None, typer.Option(help="A class empty in both masks: undefined, or challenge (scores 1).")
    ] = None,
    tolerance: Annotated[str | None, typer.Option(help="Of NSD in mm: 2, or 1,Larynx=2.")] = None,
    convention: Annotated[
        str, typer.Option(help="Definitions of ours, monai, medpy, seg-metrics or surface-distance; see docs/peers.md.")
    ] = "ours",
    workers: Annotated[int, typer.Option(min=1, help="Processes that score --pred.")] = 1,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Score a run, or the masks of --pred: DSC, IoU, HD95, NSD and volumes per case and class.

    Writes metrics.csv and metrics.json (and for a run pictures/) into the run's folder, or into --output.
    """
    only_json(as_json)
    rules = choose_rules(protocol, metrics, empty_policy, tolerance, convention)
    if run is not None:
        _refuse(pred=pred, ref=ref, labels=labels)
        check_tolerances(tolerance, read_run(run).class_names)
        folder = output or run
        if output is not None:
            check_output(output, overwrite, METRICS_FILE)
        summary = run_evaluation(run, data, layout, device, rules, folder)
    else:
        if pred is None or ref is None or output is None:
            raise InputError("evaluate needs the folder of a run, or --pred, --ref and --output to score masks.")
        _refuse(data=data)
        check_output(output, overwrite, METRICS_FILE)
        folder = output
        summary = score_folders(pred, ref, labels, rules, tolerance, workers)
        write_metrics(folder, summary)
    for note in summary["notes"]:
        warn(note)
    if as_json:
        print_json(summary)
    _print_table(summary)
    pictures = f", {folder / 'pictures'}" if run is not None else ""
    say(f"Written: {folder / TABLE_FILE}, {folder / METRICS_FILE}{pictures}")


def run_evaluation(
    run: Path,
    data: Path | None = None,
    layout: str = "auto",
    device: str = "auto",
    rules: MetricRules | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a run through its shipped bundle's ``evaluate.json``; returns the content of ``metrics.json``."""
    record = read_run(run)
    require_trained(run)
    rules, output = rules or MetricRules(), output or run
    values = {**run_knobs(record.bundle, **record.knobs).model_dump(), **record.config_values()}
    if data is None:
        data = data_of(record, run)
    else:
        found = find_cases(data, layout)
        refuse_other_images(found.images, record.images, data, run)
        values |= {"layout": found.layout, "cases": None, "label_ids": matching_ids(found, record)}

    from medsam_adapt.core.devices import select_device

    silence_logs()
    config = read_config(record.bundle, "evaluate")
    flow = workflow(
        record.bundle,
        "evaluate",
        {
            **{block: {key: values.get(key, given) for key, given in config[block].items()} for block in _FROM_RUN},
            "adapter": {"_target_": record.adapter.name, **record.adapter.settings},
            "dataset_dir": plain_path(data),
            "output_dir": plain_path(output),
            "bundle_root": plain_path(run),
            "device": select_device(device),
        },
        workflow_type="infer",
    )
    evaluator = flow.evaluator
    evaluator.scores.rules = rules
    evaluator.scores.notes += _notes_on(record, values["cases"] is not None, rules)
    with progress_bar() as progress:
        from ignite.engine import Events

        task = progress.add_task("scoring", total=evaluator.state.epoch_length, detail="")
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda _: progress.update(task, advance=1))
        flow.run()
    return read_metrics(output)


def score_folders(
    predictions: Path,
    references: Path,
    labels: Path | None = None,
    rules: MetricRules | None = None,
    tolerance: str | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Score the masks of one folder on those of another; returns the content of ``metrics.json``."""
    from medsam_adapt.scoring.mask_pairs import (
        Label,
        find_labels,
        match_masks,
        missing_masks,
        read_class_names,
        score_masks,
    )

    rules = rules or MetricRules()
    named = None if labels is None else read_class_names(labels)
    if named is not None:
        check_tolerances(tolerance, list(named.values()))
    matched = match_masks(predictions, references)
    with progress_bar() as progress:
        tasks = [progress.add_task(name, total=len(matched.pairs), detail="") for name in ("checking", "scoring")]
        found = find_labels(matched.pairs, workers, lambda case: progress.update(tasks[0], advance=1))
        ids: list[Any] = sorted(set().union(*found.values()))
        if named is not None and any(isinstance(label_id, str) for label_id in ids):
            raise InputError(f"{references} has a file for each structure, which names it: leave out --labels.")
        classes: dict[Label, str] = {label_id: str(label_id) for label_id in ids} if named is None else {**named}
        if not classes or not ids:
            raise InputError(f"{predictions} and {references} hold no labelled voxel: nothing can be scored.")
        check_tolerances(tolerance, list(classes.values()))
        scores, facts = score_masks(
            matched.pairs, classes, rules, workers, lambda case: progress.update(tasks[1], advance=1)
        )
    notes = [f"{path} has no counterpart and was not scored." for path in matched.unmatched]
    notes += missing_masks(matched.pairs)
    if unnamed := sorted(set(ids) - set(classes)):
        notes.append(f"not in {labels}, and not scored: label {', '.join(map(str, unnamed))}.")
    return summarise(scores, list(classes.values()), rules, facts, notes=notes)


def _refuse(**options: Path | None) -> None:
    """Refuse options that do not go with what is scored."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        other = "a run" if given[0] != "data" else "--pred"
        raise InputError(f"--{given[0]} does not go with {other}: leave one of them out.")


def _notes_on(record: RunRecord, own_cases: bool, rules: MetricRules) -> list[str]:
    """What a reader must know of a run's scores."""
    notes = []
    if own_cases and not record.held_out:
        notes.append("The run held nothing out: these are scores on its own training cases.")
    if own_cases and record.held_out and record.knobs["val_interval"] < record.knobs["epochs"]:
        notes.append(
            "The weights are those of the best validation on these very cases, which flatters the scores; with "
            "val_interval equal to epochs they are the last ones."
        )
    if record.prompt != "none":
        notes.append(f"{SEES_THE_ANSWER} (The prompts are taken from the labels: {record.prompt}.)")
    elif rules.protocol == "papers":
        notes.append("The papers prompt with a box or a point from the label; this run segments without a prompt.")
    return notes


def matching_ids(found: CaseList, record: RunRecord) -> list[int]:
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
