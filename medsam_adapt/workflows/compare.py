"""Compare methods: train them on the same splits, or take finished runs, and test which is better."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam_adapt.bundle.catalogue import resolve_knobs
from medsam_adapt.bundle.contents import bundle_folder
from medsam_adapt.comparison.plan import PLAN_FILE, ComparisonPlan, begin, is_scored, name_runs, scored_run
from medsam_adapt.comparison.run import ScoredRun, compare_runs
from medsam_adapt.comparison.tables import write_comparison
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.output_folder import check_output
from medsam_adapt.data.datasets.case_checks import check_cases
from medsam_adapt.data.datasets.cases import find_cases, select_classes
from medsam_adapt.runs.record import read_run, require_trained
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.protocols import choose_rules
from medsam_adapt.scoring.summary import METRICS_FILE
from medsam_adapt.weights.store import resolve
from medsam_adapt.workflows import command
from medsam_adapt.workflows.arguments import Names, PathLike, names, path_or_none, paths
from medsam_adapt.workflows.cluster_trainings import score_arguments, train_on_cluster
from medsam_adapt.workflows.reporter import SILENT, Reporter

_SPLIT_SETTINGS = ("split_file", "fold", "folds", "seed")


@dataclass(frozen=True)
class Comparison:
    """Methods compared, and where that is written.

    Attributes:
        content: of ``compare.json``; see docs/comparison.md.
        files: what was written.
    """

    content: Mapping[str, Any]
    files: tuple[Path, ...]

    @property
    def methods(self) -> Mapping[str, Mapping[str, Any]]:
        """Method -> its rank, scores and cost, the best first."""
        return self.content["methods"]


def compare(
    from_runs: PathLike | Iterable[PathLike] | None = None,
    *,
    output: PathLike | None = None,
    bundles: Names | None = None,
    data: PathLike | None = None,
    layout: str = "auto",
    backbone: str | None = None,
    checkpoint: PathLike | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    prompt: str | None = None,
    precision: str | None = None,
    low_memory: bool | None = None,
    classes: Names | None = None,
    cache_dir: PathLike | None = None,
    folds: int = 1,
    seeds: int = 1,
    recipe: str = "default",
    protocol: str = "default",
    cluster: str | None = None,
    device: str = "auto",
    sets: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Comparison:
    """Compare methods, as ``medsam-adapt compare`` does; each argument is the option of its name.

    Args:
        from_runs: finished runs (``--from``), in place of ``bundles`` and ``data``.
        output: folder of the comparison.
        bundles: methods to train.
        data: folder of the labelled volumes.
        layout: of the data on disk.
        backbone: of all methods. It is each bundle's when None, as are all settings up to ``cache_dir``.
        checkpoint: name from ``medsam-adapt weights list``, a file, or ``random``.
        image_size: side of a slice in pixels.
        epochs: passes over the training slices.
        prompt: simulated from the labels during training: none, box or points.
        precision: fp32, bf16, or auto.
        low_memory: train in less memory, with more time per step.
        classes: names of the classes to learn.
        cache_dir: folder of the slice cache.
        folds: of a cross-validation; 1 holds one part out.
        seeds: trainings of each method and fold, with seeds from 0.
        recipe: ``default`` (ours) or ``paper`` (the papers' settings).
        protocol: default, segrap or papers.
        cluster: address of a Dask scheduler whose workers train, or ``local:N`` for N workers of this machine.
        device: auto, cpu, cuda, cuda:N or mps.
        sets: any other setting by name, or as ``method.name`` for one method (``--set``).
        overwrite: replace the comparison in ``output``.
        reporter: receives notes.

    Raises:
        InputError: options, settings, files, labels or runs that do not fit.
        RunError: a training or an evaluation failed; the same call continues from there.
    """
    if output is None:
        raise InputError("--output: compare needs the folder of the comparison. Add --output.")
    folder, rules = Path(output), choose_rules(protocol)
    options = {
        "backbone": backbone,
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "image_size": image_size,
        "epochs": epochs,
        "prompt": prompt,
        "precision": precision,
        "low_memory": low_memory,
        "classes": None if classes is None else names(classes),
        "cache_dir": None if cache_dir is None else str(Path(cache_dir).resolve()),
    }
    given = {name: value for name, value in options.items() if value is not None} | dict(sets or {})
    finished = [] if from_runs is None else paths(from_runs)
    if finished:
        if bundles or data or given or cluster:
            raise InputError(
                "--from: it excludes --bundles, --data and settings. Give either --from RUN RUN … or the others."
            )
        check_output(folder, overwrite, "compare.json")
        runs = _score_all(finished, rules, device, reporter)
    else:
        plan, splits = _prepare(
            folder, names(bundles), path_or_none(data), layout, folds, seeds, recipe, given, overwrite, reporter
        )
        if cluster is not None:
            train_on_cluster(plan, splits.absolute(), folder.absolute(), rules, device, cluster, reporter)
        runs = _train_all(plan, splits, folder, rules, device, reporter)
    content = compare_runs(runs)
    files = write_comparison(folder, content, runs)
    for note in content["notes"]:
        reporter.warn(note)
    return Comparison(content, tuple(files))


def _prepare(
    output: Path,
    bundles: Sequence[str],
    data: Path | None,
    layout: str,
    folds: int,
    seeds: int,
    recipe: str,
    given: Mapping[str, Any],
    overwrite: bool,
    reporter: Reporter,
) -> tuple[ComparisonPlan, Path]:
    """The plan and its splits; all errors in settings, files and labels are reported here."""
    methods = list(dict.fromkeys(bundles))
    if not methods or data is None:
        raise InputError(
            "--bundles: compare needs methods (as in blosam,lora) and data. Give --bundles and --data, or --from RUN "
            "RUN …."
        )
    settings = _settings(methods, recipe, given)
    if overwrite or not (output / PLAN_FILE).is_file():
        check_output(output, overwrite, PLAN_FILE)
    found = find_cases(data, layout)
    if chosen := settings[methods[0]].get("classes"):
        found = select_classes(found, chosen)
    reporter.note("Checking labels …")
    check_cases(found)
    if overwrite and output.is_dir():
        shutil.rmtree(output)
    plan = ComparisonPlan(str(data.resolve()), found.layout, tuple(methods), settings, recipe, folds, seeds)
    return begin(plan, output, found)


def _settings(methods: Sequence[str], recipe: str, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings given for each method, checked as a training would check them."""
    for name in methods:
        bundle_folder(name)
    for key in given:
        method, dot, setting = key.rpartition(".")
        if dot and method not in methods:
            raise InputError(
                f"--set {key}: {method} is none of the methods that are compared. Name one of them, or none."
            )
        if setting in _SPLIT_SETTINGS:
            raise InputError(f"--set {key}: compare sets it for each training. Use --folds and --seeds.")
    shared = {key: value for key, value in given.items() if "." not in key}
    settings = {}
    for name in methods:
        own = {key.split(".", 1)[1]: value for key, value in given.items() if key.startswith(f"{name}.")}
        knobs = resolve_knobs(name, recipe, sets={**shared, **own})
        resolve(knobs.checkpoint, knobs.backbone)
        # The last weights, not the best: an epoch chosen on the cases that are scored would flatter the scores.
        settings[name] = {"val_interval": knobs.epochs, **shared, **own}
    return settings


def _score_all(folders: Sequence[Path], rules: MetricRules, device: str, reporter: Reporter) -> list[ScoredRun]:
    """Finished runs, evaluated where they have no scores yet."""
    unscored = [run for run in folders if not (run / METRICS_FILE).is_file()]
    for run in unscored:
        read_run(run)
        require_trained(run)
    for run in unscored:
        _score(run, rules, device, reporter)
    return [scored_run(folder, name) for name, folder in name_runs(folders).items()]


def _train_all(
    plan: ComparisonPlan, splits: Path, output: Path, rules: MetricRules, device: str, reporter: Reporter
) -> list[ScoredRun]:
    """Train and score every run that is not there yet; the runs."""
    planned = list(plan.runs(output))
    for number, run in enumerate(planned, start=1):
        title = f"{run.bundle}, seed {run.seed}" + ("" if run.fold is None else f", fold {run.fold}")
        if run.state() != "trained":
            reporter.note(f"\n[{number} of {len(planned)}] {title}")
            command.run_command(run.train_arguments(plan, splits.resolve(), device), title, not reporter.prints)
        _score(run.folder, rules, device, reporter)
    return [scored_run(run.folder, run.bundle, run.seed) for run in planned]


def _score(run: Path, rules: MetricRules, device: str, reporter: Reporter) -> None:
    """Evaluate a run, unless it has its scores."""
    if not is_scored(run, rules):
        reporter.note(f"Scoring {run} …")
        command.run_command(score_arguments(run, rules, device), f"evaluation of {run}", quiet=True)
