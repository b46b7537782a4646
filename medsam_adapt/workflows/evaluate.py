"""Score a run on labelled volumes, or anybody's masks on a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam_adapt.bundle.catalogue import read_config, workflow
from medsam_adapt.bundle.settings import run_knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.literals import plain_path
from medsam_adapt.core.output_folder import check_output
from medsam_adapt.core.text import class_key
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.volumes.case import CaseList
from medsam_adapt.data.volumes.image_pair import refuse_other_images
from medsam_adapt.evaluation.shown_cases import SHOWN_FILE
from medsam_adapt.runs.record import RunRecord, data_of, read_run, require_trained
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.protocols import SEES_THE_ANSWER, check_tolerances, choose_rules
from medsam_adapt.scoring.summary import METRICS_FILE, TABLE_FILE, read_metrics, summarise, write_metrics
from medsam_adapt.workflows.arguments import Names, PathLike, names, path_or_none
from medsam_adapt.workflows.reporter import SILENT, Reporter, quiet_logs

_FROM_RUN = ("settings", "slicing")  # of the config, filled in with the run's values


@dataclass(frozen=True)
class Evaluation:
    """Scores, and where they are written.

    Attributes:
        summary: content of ``metrics.json``; see docs/metrics.md.
        files: what was written: the table, ``metrics.json``, and for a run its pictures and the cases of its report.
    """

    summary: Mapping[str, Any]
    files: tuple[Path, ...]

    @property
    def mean(self) -> Mapping[str, float | None]:
        """Metric -> mean over the classes, each of which is a mean over cases; None where it is undefined."""
        return self.summary["mean"]

    @property
    def classes(self) -> Mapping[str, Mapping[str, Any]]:
        """Class -> metric -> mean over cases, and the class's counts of cases."""
        return self.summary["classes"]

    @property
    def cases(self) -> Mapping[str, Mapping[str, Any]]:
        """Case -> its scores."""
        return self.summary["cases"]


def evaluate(
    run: PathLike | None = None,
    *,
    data: PathLike | None = None,
    layout: str = "auto",
    pred: PathLike | None = None,
    ref: PathLike | None = None,
    labels: PathLike | None = None,
    output: PathLike | None = None,
    metrics: Names | None = None,
    protocol: str = "default",
    empty_policy: str | None = None,
    tolerance: str | float | None = None,
    convention: str = "ours",
    workers: int = 1,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Evaluation:
    """Score a run or masks, as ``medsam-adapt evaluate`` does; each argument is the option of its name.

    Args:
        run: folder of a finished run; None to score the masks of ``pred``.
        data: other labelled volumes than the run's held-out ones.
        layout: of ``data`` on disk.
        pred: mask, or folder of masks, to score instead of a run.
        ref: reference mask, or folder of masks of the same names.
        labels: JSON file with the names of the labels in ``ref``.
        output: folder of the scores; without it, the run's.
        metrics: names among dsc, iou, hd95, nsd, msd, volume and slice_dsc; None for all.
        protocol: default, segrap or papers.
        empty_policy: of a class that is empty in both masks: undefined, or challenge (scores 1).
        tolerance: of NSD in mm, such as 2 or ``1,Larynx=2``.
        convention: definitions of ours, monai, medpy, seg-metrics or surface-distance.
        workers: processes that score ``pred``.
        device: auto, cpu, cuda, cuda:N or mps.
        overwrite: replace scores in ``output``.
        reporter: receives notes and progress.

    Raises:
        InputError: options, files, labels or cases that do not fit; nothing is written then.
    """
    chosen = ",".join(names(metrics)) if metrics is not None else None
    tolerance = None if tolerance is None else str(tolerance)
    rules = choose_rules(protocol, chosen, empty_policy, tolerance, convention)
    folder = path_or_none(output)
    if run is not None:
        _refuse(pred=pred, ref=ref, labels=labels)
        where = Path(run)
        check_tolerances(tolerance, read_run(where).class_names)
        if folder is not None:
            check_output(folder, overwrite, METRICS_FILE)
        summary = evaluate_run(where, path_or_none(data), layout, device, rules, folder, reporter)
        folder = folder or where
    else:
        if pred is None or ref is None or folder is None:
            raise InputError("evaluate needs the folder of a run, or --pred, --ref and --output to score masks.")
        _refuse(data=data)
        check_output(folder, overwrite, METRICS_FILE)
        summary = score_folders(Path(pred), Path(ref), path_or_none(labels), rules, tolerance, workers, reporter)
        write_metrics(folder, summary)
    for note in summary["notes"]:
        reporter.warn(note)
    pictures = () if run is None else (folder / "pictures", folder / SHOWN_FILE)
    return Evaluation(summary, (folder / TABLE_FILE, folder / METRICS_FILE, *pictures))


def evaluate_run(
    run: Path,
    data: Path | None = None,
    layout: str = "auto",
    device: str = "auto",
    rules: MetricRules | None = None,
    output: Path | None = None,
    reporter: Reporter = SILENT,
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

    config = read_config(record.bundle, "evaluate")
    with quiet_logs(reporter):
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
        with reporter.progress("scoring", evaluator.state.epoch_length) as progress:
            from ignite.engine import Events

            evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda _: progress.update(1))
            flow.run()
    return read_metrics(output)


def score_folders(
    predictions: Path,
    references: Path,
    labels: Path | None = None,
    rules: MetricRules | None = None,
    tolerance: str | None = None,
    workers: int = 1,
    reporter: Reporter = SILENT,
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
    with reporter.progress("checking", len(matched.pairs)) as progress:
        found = find_labels(matched.pairs, workers, lambda case: progress.update(1))
    ids: list[Any] = sorted(set().union(*found.values()))
    if named is not None and any(isinstance(label_id, str) for label_id in ids):
        raise InputError(f"{references} has a file for each structure, which names it: leave out --labels.")
    classes: dict[Label, str] = {label_id: str(label_id) for label_id in ids} if named is None else {**named}
    if not classes or not ids:
        raise InputError(f"{predictions} and {references} hold no labelled voxel: nothing can be scored.")
    check_tolerances(tolerance, list(classes.values()))
    with reporter.progress("scoring", len(matched.pairs)) as progress:
        scores, facts = score_masks(matched.pairs, classes, rules, workers, lambda case: progress.update(1))
    notes = [f"{path} has no counterpart and was not scored." for path in matched.unmatched]
    notes += missing_masks(matched.pairs)
    if unnamed := sorted(set(ids) - set(classes)):
        notes.append(f"not in {labels}, and not scored: label {', '.join(map(str, unnamed))}.")
    return summarise(scores, list(classes.values()), rules, facts, notes=notes)


def _refuse(**options: PathLike | None) -> None:
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
