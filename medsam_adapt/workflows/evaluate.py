"""Score a run on labelled volumes, or anybody's masks on a reference."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam_adapt.bundle.catalogue import read_config, workflow
from medsam_adapt.bundle.settings import run_knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole
from medsam_adapt.core.literals import plain_path
from medsam_adapt.core.output_folder import check_output
from medsam_adapt.core.parts import Part, device_of_process, local_rank, parse_part, part_of_environment
from medsam_adapt.core.text import class_key
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.volumes.case import CaseList
from medsam_adapt.data.volumes.image_pair import refuse_other_images
from medsam_adapt.evaluation.shown_cases import SHOWN_FILE, choose_cases
from medsam_adapt.runs.record import RunRecord, data_of, read_run, require_trained
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.parts import PartScores, part_file, read_parts, scored_by, write_part
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
        files: what was written: the table, ``metrics.json``, and for a run its pictures and the cases of its report; of
            one part, the file of its scores.
        missing: parts that are not scored yet; the summary is empty until they are.
    """

    summary: Mapping[str, Any]
    files: tuple[Path, ...]
    missing: tuple[int, ...] = ()

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
    part: str | None = None,
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
        part: ``K/N`` for part K of N of the cases; None takes it from torchrun or SLURM, else all.
        device: auto, cpu, cuda, cuda:N or mps.
        overwrite: replace scores in ``output``.
        reporter: receives notes and progress.

    Raises:
        InputError: options, files, labels or cases that do not fit; nothing is written then.
    """
    chosen = ",".join(names(metrics)) if metrics is not None else None
    tolerance = None if tolerance is None else str(tolerance)
    rules = choose_rules(protocol, chosen, empty_policy, tolerance, convention)
    share = part_of_environment() if part is None else parse_part(part)
    share = None if share is None or share.count == 1 else share
    folder = path_or_none(output)
    if run is not None:
        _refuse(pred=pred, ref=ref, labels=labels)
        where = Path(run)
        check_tolerances(tolerance, read_run(where).class_names)
        _check_folder(folder, overwrite, share)
        summary, missing = _evaluate_run(
            where, path_or_none(data), layout, device, rules, folder or where, share, reporter
        )
        folder = folder or where
    else:
        if pred is None or ref is None or folder is None:
            raise InputError("evaluate needs the folder of a run, or --pred, --ref and --output to score masks.")
        _refuse(data=data)
        _check_folder(folder, overwrite, share)
        found = _FoundMasks(Path(pred), Path(ref), path_or_none(labels), rules, tolerance, workers)
        summary, missing = found.score(folder, share, reporter)
        if not missing:
            write_metrics(folder, summary)
    if share is not None and missing:
        return Evaluation({}, (part_file(folder, share),), tuple(missing))
    for note in summary["notes"]:
        reporter.warn(note)
    pictures = () if run is None else (folder / "pictures", folder / SHOWN_FILE)
    return Evaluation(summary, (folder / TABLE_FILE, folder / METRICS_FILE, *pictures))


def _check_folder(folder: Path | None, overwrite: bool, part: Part | None) -> None:
    """Raise an InputError for a folder of scores that cannot be; those of other parts may be in it."""
    if folder is None:
        return
    others = part is not None and not (folder / METRICS_FILE).exists() and any(folder.glob("metrics.*-of-*.json"))
    check_output(folder, overwrite or others, None if others else METRICS_FILE)


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
    return _evaluate_run(run, data, layout, device, rules or MetricRules(), output or run, None, reporter)[0]


def _evaluate_run(
    run: Path,
    data: Path | None,
    layout: str,
    device: str,
    rules: MetricRules,
    output: Path,
    part: Part | None,
    reporter: Reporter,
) -> tuple[dict[str, Any], list[int]]:
    """The summary of all cases, and the parts that are not scored yet."""
    record = read_run(run)
    weights = require_trained(run)
    values = {**run_knobs(record.bundle, **record.knobs).model_dump(), **record.config_values()}
    if data is None:
        data = data_of(record, run)
        own_cases = values["cases"] is not None
    else:
        found = find_cases(data, layout)
        refuse_other_images(found.images, record.images, data, run)
        values |= {"layout": found.layout, "cases": None, "label_ids": matching_ids(found, record)}
        own_cases = False
    device = device if part is None else device_of_process(device, local_rank())

    def run_on(cases: Sequence[str] | None, folder: Path) -> Any:
        """The scores of these cases, or of all; they and the pictures are in the folder."""
        notes = _notes_on(record, own_cases, rules)
        return _run_bundle(run, record, data, {**values, "cases": cases}, device, rules, notes, folder, reporter)

    if part is None:
        run_on(values["cases"], output)
        return read_metrics(output), []
    wanted = None if values["cases"] is None else {*values["cases"]}
    ids = [case.id for case in find_cases(data, values["layout"]).cases if wanted is None or case.id in wanted]
    own = part.of(ids)
    reporter.note(f"part {part.number} of {part.count}: {len(own)} of {len(ids)} cases.")
    state = weights.stat()
    settings = scored_by(
        rules,
        ids,
        data=str(data.resolve()),
        weights=[state.st_size, state.st_mtime_ns],
        notes=_notes_on(record, own_cases, rules),
    )
    with tempfile.TemporaryDirectory(prefix="medsam-adapt-") as scratch:
        scores = PartScores()
        if own:
            done = run_on(own, Path(scratch))
            scores = PartScores(done.cases, done.facts)
        write_part(output, part, settings, scores)
    whole, missing = read_parts(output, part.count, settings)
    if missing:
        return {}, missing
    from medsam_adapt.evaluation.pictures import mean_dsc

    # Which cases are shown is known only now; of the parts, none has kept their volumes.
    with tempfile.TemporaryDirectory(prefix="medsam-adapt-") as scratch:
        if shown := [*choose_cases(mean_dsc(whole.cases)).values()]:
            run_on(sorted(shown, key=ids.index), Path(scratch))
            shutil.rmtree(output / "pictures", ignore_errors=True)
            shutil.copytree(Path(scratch, "pictures"), output / "pictures")
            with written_whole(output / SHOWN_FILE) as temporary:
                shutil.copyfile(Path(scratch, SHOWN_FILE), temporary)
    summary = summarise(whole.cases, record.class_names, rules, whole.facts, record.absent, notes)
    write_metrics(output, summary)
    return read_metrics(output), []


def _run_bundle(
    run: Path,
    record: RunRecord,
    data: Path,
    values: Mapping[str, Any],
    device: str,
    rules: MetricRules,
    notes: Sequence[str],
    output: Path,
    reporter: Reporter,
) -> Any:
    """Run the bundle's ``evaluate.json``; returns the scores that its evaluator holds."""
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
        evaluator.scores.notes += notes
        with reporter.progress("scoring", evaluator.state.epoch_length) as progress:
            from ignite.engine import Events

            evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda _: progress.update(1))
            flow.run()
    return evaluator.scores


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
    found = _FoundMasks(predictions, references, labels, rules or MetricRules(), tolerance, workers)
    return found.score(Path(), None, reporter)[0]


@dataclass(frozen=True)
class _FoundMasks:
    """Masks to score, and how."""

    predictions: Path
    references: Path
    labels: Path | None
    rules: MetricRules
    tolerance: str | None
    workers: int

    def score(self, output: Path, part: Part | None, reporter: Reporter) -> tuple[dict[str, Any], list[int]]:
        """The summary of all cases, and the parts that are not scored yet, whose scores will be in ``output``."""
        from medsam_adapt.scoring.mask_pairs import (
            Label,
            find_labels,
            match_masks,
            missing_masks,
            read_class_names,
            score_masks,
        )

        named = None if self.labels is None else read_class_names(self.labels)
        if named is not None:
            check_tolerances(self.tolerance, list(named.values()))
        matched = match_masks(self.predictions, self.references)
        pairs = list(matched.pairs)
        if part is not None:
            own = {*part.of(pair.id for pair in pairs)}
            pairs = [pair for pair in pairs if pair.id in own]
            reporter.note(f"part {part.number} of {part.count}: {len(pairs)} of {len(matched.pairs)} cases.")
        # Without names, which classes there are is known when all files are read, whatever part they are in.
        read = matched.pairs if named is None else pairs
        with reporter.progress("checking", len(read)) as progress:
            found = find_labels(read, self.workers, lambda case: progress.update(1))
        ids: list[Any] = sorted(set().union(*found.values()))
        if named is not None and any(isinstance(label_id, str) for label_id in ids):
            raise InputError(f"{self.references} has a file for each structure, which names it: leave out --labels.")
        classes: dict[Label, str] = {label_id: str(label_id) for label_id in ids} if named is None else {**named}
        names = list(classes.values())
        check_tolerances(self.tolerance, names)
        with reporter.progress("scoring", len(pairs)) as progress:
            scores, facts = score_masks(pairs, classes, self.rules, self.workers, lambda case: progress.update(1))
        scored = PartScores(scores, facts, ids, missing_masks(pairs))
        if part is not None:
            settings = scored_by(
                self.rules, [pair.id for pair in matched.pairs], classes=names, masks=str(self.predictions.resolve())
            )
            write_part(output, part, settings, scored)
            scored, missing = read_parts(output, part.count, settings)
            if missing:
                return {}, missing
        if not classes or not scored.label_ids:
            raise InputError(f"{self.predictions} and {self.references} hold no labelled voxel: nothing can be scored.")
        notes = [f"{path} has no counterpart and was not scored." for path in matched.unmatched]
        notes += scored.notes
        if unnamed := sorted(set(scored.label_ids) - set(classes)):
            notes.append(f"not in {self.labels}, and not scored: label {', '.join(map(str, unnamed))}.")
        return summarise(scored.cases, names, self.rules, scored.facts, notes=notes), []


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
