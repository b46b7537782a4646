"""Score a run on labelled volumes, or anybody's masks on a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.output_folder import check_output
from medsam_adapt.core.parts import Part, parse_part, part_of_environment
from medsam_adapt.evaluation.shown_cases import SHOWN_FILE
from medsam_adapt.runs.record import read_run
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.parts import part_file
from medsam_adapt.scoring.protocols import check_tolerances, choose_rules
from medsam_adapt.scoring.summary import METRICS_FILE, TABLE_FILE
from medsam_adapt.workflows.arguments import Names, PathLike, names, path_or_none
from medsam_adapt.workflows.cluster_parts import do_on_cluster
from medsam_adapt.workflows.mask_scoring import MaskScoring
from medsam_adapt.workflows.reporter import SILENT, Reporter
from medsam_adapt.workflows.run_scoring import RunScoring


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
    cluster: str | None = None,
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
        cluster: address of a Dask scheduler, or ``local:N`` for N workers of this machine.
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
    scoring: RunScoring | MaskScoring
    if run is not None:
        _refuse(pred=pred, ref=ref, labels=labels)
        where = Path(run)
        check_tolerances(tolerance, read_run(where).class_names)
        _check_folder(folder, overwrite, share)
        folder = folder or where
        scoring = RunScoring(where, path_or_none(data), layout, device, rules, folder)
    else:
        if pred is None or ref is None or folder is None:
            raise InputError("evaluate needs the folder of a run, or --pred, --ref and --output to score masks.")
        _refuse(data=data)
        _check_folder(folder, overwrite, share)
        scoring = MaskScoring(Path(pred), Path(ref), path_or_none(labels), rules, tolerance, workers, folder)
    missing: list[int] = []
    if cluster is not None:
        parts = do_on_cluster(scoring, cluster, "scoring", reporter)
        summary, _ = scoring.merged(len(parts), reporter)
        for each in parts:
            part_file(folder, each).unlink(missing_ok=True)
    elif share is not None:
        scoring.do_part(share, reporter)
        summary, missing = scoring.merged(share.count, reporter)
        if missing:
            return Evaluation({}, (part_file(folder, share),), tuple(missing))
    else:
        summary = scoring.whole(reporter)
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
    return RunScoring(run, data, layout, device, rules or MetricRules(), output or run).whole(reporter)


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
    rules = rules or MetricRules()
    return MaskScoring(predictions, references, labels, rules, tolerance, workers, None).whole(reporter)


def _refuse(**options: PathLike | None) -> None:
    """Refuse options that do not go with what is scored."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        other = "a run" if given[0] != "data" else "--pred"
        raise InputError(f"--{given[0]} does not go with {other}: leave one of them out.")
