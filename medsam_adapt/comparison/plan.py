"""What a comparison trains: methods, seeds and folds on the same splits, kept in its folder to go on after a stop.

OUTPUT/comparison.json      the plan
       splits.json          who is held out
       runs/METHOD/…        one run for each fold and seed
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from medsam_adapt.comparison.run import ScoredRun
from medsam_adapt.config import HELD_OUT
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import write_json
from medsam_adapt.core.json_files import read_object
from medsam_adapt.core.versions import newer_error
from medsam_adapt.data.datasets.splits import fold_cases, save_split, split_cases, why_none_is_held_out
from medsam_adapt.data.volumes.case import CaseList
from medsam_adapt.runs.record import RUN_FILE, SPLIT_FILE, read_cost, read_run
from medsam_adapt.runs.resume import is_finished
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.summary import METRICS_FILE, read_metrics

PLAN_FILE, FORMAT = "comparison.json", 1

State = Literal["new", "begun", "trained"]


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared.

    Attributes:
        data: the data set's folder.
        layout: its layout.
        bundles: the methods.
        settings: of every run: bundle -> name -> value, without seed and split.
        recipe: ``default`` or ``paper``.
        folds: of the cross-validation; 1 for one part held out.
        seeds: how many, from 0.
    """

    data: str
    layout: str
    bundles: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]]
    recipe: str = "default"
    folds: int = 1
    seeds: int = 1

    def runs(self, folder: Path) -> Iterator[PlannedRun]:
        """Every run, one seed of all methods after another, so that an interrupted comparison has whole rows."""
        for seed in range(self.seeds):
            for fold in range(self.folds):
                for bundle in self.bundles:
                    name = f"fold_{fold}_seed_{seed}" if self.folds > 1 else f"seed_{seed}"
                    where = folder / "runs" / bundle / name
                    yield PlannedRun(bundle, seed, fold if self.folds > 1 else None, where)


@dataclass(frozen=True)
class PlannedRun:
    """One training of a plan, and where it goes."""

    bundle: str
    seed: int
    fold: int | None
    folder: Path

    def state(self) -> State:
        """How far it is: nothing there, to be gone on with, or trained."""
        if not (self.folder / RUN_FILE).is_file():
            return "new"
        return "trained" if is_finished(self.folder) else "begun"

    def train_arguments(self, plan: ComparisonPlan, splits: Path, device: str) -> list[str]:
        """What ``medsam-adapt`` gets to train it, or to resume it."""
        if self.state() == "begun":
            return ["train", "--resume", "--output", str(self.folder), "--device", device]
        settings = {**plan.settings[self.bundle], "seed": self.seed, "split_file": str(splits), "fold": self.fold}
        return [
            *("train", "--bundle", self.bundle, "--recipe", plan.recipe, "--data", plan.data, "--layout", plan.layout),
            *("--output", str(self.folder), "--device", device),
            *(part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")),
        ]


def begin(plan: ComparisonPlan, folder: Path, cases: CaseList) -> tuple[ComparisonPlan, Path]:
    """Make the folder of a comparison, or continue it; methods and seeds may be added to an earlier one.

    Returns:
        The plan, and the file of its splits.

    Raises:
        InputError: another comparison is there, or there are too few patients.
    """
    splits = folder / SPLIT_FILE
    if (folder / PLAN_FILE).is_file():
        return _extended(plan, folder), splits
    held_out = max(float(settings.get("held_out", HELD_OUT)) for settings in plan.settings.values())
    split = fold_cases(cases.cases, 0, plan.folds) if plan.folds > 1 else split_cases(cases.cases, 0, held_out)
    if not isinstance(split, tuple) and not split.held_out:
        why = why_none_is_held_out(held_out)
        raise InputError(f"{plan.data}: {why}, so nothing is held out to compare on. Give more patients, or a share.")
    folder.mkdir(parents=True, exist_ok=True)
    save_split(splits, split, 0)
    write_json(folder / PLAN_FILE, {"format": FORMAT, **asdict(plan)})
    return plan, splits


def is_scored(folder: Path, rules: MetricRules) -> bool:
    """Whether a run has scores by these rules already."""
    if not (folder / METRICS_FILE).is_file():
        return False
    scored = read_metrics(folder)["rules"]
    same = all(scored[key] == getattr(rules, key) for key in ("protocol", "empty_policy", "surface"))
    same = same and scored.get("convention", "ours") == rules.convention
    tolerances = {name: rules.tolerance(name) for name in scored["tolerances_mm"]}
    return same and set(rules.metrics) <= set(scored["metrics"]) and tolerances == scored["tolerances_mm"]


def scored_run(folder: Path, method: str | None = None, seed: int | None = None) -> ScoredRun:
    """A folder with ``metrics.json``, and with ``run.json`` and ``training.json`` where it is a run.

    Args:
        folder: of a run, or of the scores of anybody's masks.
        method: the name in the table; the folder's when None.
        seed: the run's own when None.
    """
    summary = read_metrics(folder)
    record = read_run(folder) if (folder / RUN_FILE).is_file() else None
    cost = read_cost(folder)
    return ScoredRun(
        method=method or folder.resolve().name,
        seed=seed if seed is not None else record.knobs["seed"] if record else 0,
        summary=summary,
        where=str(folder),
        trainable=record.trainable["total"] if record else None,
        seconds=cost.seconds if cost else None,
        peak_memory_bytes=cost.peak_memory_bytes if cost else None,
    )


def name_runs(folders: Sequence[Path]) -> dict[str, Path]:
    """Names for the table: as much of the end of each folder's path as distinguishes them."""
    paths = [folder.resolve() for folder in folders]
    length = 1
    while len({path.parts[-length:] for path in paths}) < len(set(paths)):
        length += 1
    return {"/".join(path.parts[-length:]): folder for path, folder in zip(paths, folders, strict=True)}


def _extended(plan: ComparisonPlan, folder: Path) -> ComparisonPlan:
    """The plan of the folder with the methods and seeds of a later one."""
    path = folder / PLAN_FILE
    before = read_object(path)
    if (newer := newer_error(path, before, FORMAT)) is not None:
        raise newer
    if before.get("format") != FORMAT:
        raise InputError(f"{path}: it is of another version. Name another folder.")
    for key in ("data", "layout", "folds", "recipe"):
        if before[key] != getattr(plan, key):
            raise InputError(f"{folder}: it was begun with another {key} ({before[key]}). Name another folder.")
    for bundle in set(before["settings"]) & set(plan.settings):
        if before["settings"][bundle] != plan.settings[bundle]:
            raise InputError(f"{folder}: it was begun with other settings of {bundle}. Name another folder.")
    settings = {**before["settings"], **plan.settings}
    seeds = max(before["seeds"], plan.seeds)
    extended = ComparisonPlan(plan.data, plan.layout, tuple(settings), settings, plan.recipe, plan.folds, seeds)
    write_json(path, {"format": FORMAT, **asdict(extended)})
    return extended
