"""Methods compared on the same cases: scores, spread over cases and seeds, paired tests, cost.

A method's score of a case is its mean over the seeds; a cross-validation gives each case once a seed. Two methods are
compared by Wilcoxon's signed-rank test over cases (a case's value is its mean over the classes that both have a score
of), with Holm's correction over all pairs of methods, metric by metric.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted
from medsam_adapt.scoring.metrics import METRICS
from medsam_adapt.scoring.summary import NO_DISTANCE, magnitude, nanmean, without_nan

FORMAT = 1
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class ScoredRun:
    """One trained and scored run.

    Attributes:
        method: what is compared; runs of one method differ in seed and fold.
        seed: of the run; runs of one method and seed are the folds of one cross-validation.
        summary: the content of its ``metrics.json``.
        where: its folder, for messages.
        trainable: number of trained values, None where unknown.
        seconds: of training.
        peak_memory_bytes: of training.
    """

    method: str
    seed: int
    summary: Mapping[str, Any]
    where: str
    trainable: int | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class _Scores:
    """values (seeds, cases, classes, metrics) of one method, NaN where undefined."""

    values: np.ndarray
    missed: int

    @property
    def of_cases(self) -> np.ndarray:
        """(cases, classes, metrics): the mean over seeds."""
        return nanmean(self.values, 0)


def compare_runs(runs: Sequence[ScoredRun]) -> dict[str, Any]:
    """The content of ``compare.json``; undefined values are None.

    Raises:
        InputError: fewer than two methods, or runs that were not scored on the same cases and classes.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    if len(methods) < 2:
        raise InputError("--bundles: there is nothing to compare. Give two methods or runs.")
    by_seed = _by_seed(runs)
    classes, metrics, cases = _common(runs, by_seed)
    scores = {method: _scores_of(by_seed[method], cases, classes, metrics) for method in methods}
    rows = {
        method: _row([run for run in runs if run.method == method], scores[method], classes, metrics)
        for method in methods
    }
    for method, rank in _ranks([rows[method]["mean"]["dsc"]["mean"] for method in methods], methods).items():
        rows[method]["rank"] = rank
    content = {
        "format": FORMAT,
        "metrics": list(metrics),
        "classes": list(classes),
        "cases": list(cases),
        "seeds": {method: sorted(by_seed[method]) for method in methods},
        "methods": dict(sorted(rows.items(), key=lambda item: item[1]["rank"])),
        "tests": {
            metric: _tests({method: scores[method].of_cases[:, :, index] for method in methods})
            for index, metric in enumerate(metrics)
            if METRICS[metric].better != "zero"
        },
        "notes": [*_notes(runs, len(cases), len(methods)), *_distance_notes(scores, metrics)],
    }
    return without_nan(content)


def wilcoxon(first: np.ndarray, second: np.ndarray) -> float:
    """p of the two-sided signed-rank test of paired values; NaN without a pair, 1 where all pairs are equal."""
    from scipy.stats import wilcoxon as scipy_wilcoxon

    paired = ~np.isnan(first) & ~np.isnan(second)
    differences = first[paired] - second[paired]
    if not differences.size:
        return math.nan
    return 1.0 if not differences.any() else float(scipy_wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; undefined values stay NaN and are not counted."""
    defined = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for place, (p, index) in enumerate(defined):
        largest = max(largest, min(1.0, (len(defined) - place) * p))
        corrected[index] = largest
    return corrected


# ------------------------------------------------------------------------------------------------- what is the same


def _by_seed(runs: Sequence[ScoredRun]) -> dict[str, dict[int, dict[str, tuple[ScoredRun, Mapping[str, Any]]]]]:
    """method -> seed -> case -> (run, scores of its classes)."""
    found: dict[str, dict[int, dict[str, tuple[ScoredRun, Mapping[str, Any]]]]] = {}
    for run in runs:
        cases = found.setdefault(run.method, {}).setdefault(run.seed, {})
        for case, content in run.summary["cases"].items():
            if case in cases:
                raise InputError(
                    f"{run.where}: it and {cases[case][0].where} both scored the case {case!r} as one method. Give "
                    "each method a case once."
                )
            cases[case] = (run, content["classes"])
    return found


def _common(
    runs: Sequence[ScoredRun], by_seed: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Classes, metrics and cases of all runs."""
    first = runs[0]
    classes = tuple(first.summary["classes"])
    for run in runs:
        if differing := sorted(set(classes) ^ set(run.summary["classes"])):
            raise InputError(
                f"{first.where}: it and {run.where} differ in the class {differing[0]!r}. Compare equal tasks."
            )
        for key in ("empty_policy", "surface", "tolerances_mm"):
            if run.summary["rules"][key] != first.summary["rules"][key]:
                raise InputError(
                    f"{first.where}: it and {run.where} were scored by different rules ({key}). Evaluate both alike."
                )
    metrics = tuple(name for name in METRICS if all(name in run.summary["rules"]["metrics"] for run in runs))
    groups = [(f"{method}, seed {seed}", cases) for method, seeds in by_seed.items() for seed, cases in seeds.items()]
    for name, cases in groups[1:]:
        if differing := sorted(set(groups[0][1]) ^ set(cases)):
            one = name if differing[0] in groups[0][1] else groups[0][0]
            raise InputError(
                f"{one}: it was not scored on the case {differing[0]!r}, and others were. Score all on the same cases, "
                "with evaluate --data for instance."
            )
    return classes, metrics, tuple(sorted(groups[0][1]))


def _scores_of(
    seeds: Mapping[int, Mapping[str, tuple[ScoredRun, Mapping[str, Any]]]],
    cases: Sequence[str],
    classes: Sequence[str],
    metrics: Sequence[str],
) -> _Scores:
    def scores_of(scored: Mapping[str, tuple[ScoredRun, Mapping[str, Any]]], case: str, name: str) -> list[float]:
        found = scored[case][1][name]
        return [magnitude(_number(found[metric]), metric) for metric in metrics]

    values = np.array(
        [[[scores_of(scored, case, name) for name in classes] for case in cases] for _, scored in sorted(seeds.items())]
    ).reshape(len(seeds), len(cases), len(classes), len(metrics))
    outcomes = [scored[case][1][name]["outcome"] for scored in seeds.values() for case in cases for name in classes]
    return _Scores(values, outcomes.count("missed"))


# ------------------------------------------------------------------------------------------------------- one method


def _row(runs: Sequence[ScoredRun], scores: _Scores, classes: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Cost and scores of one method."""
    seconds = [run.seconds for run in runs if run.seconds is not None]
    memory = [run.peak_memory_bytes for run in runs if run.peak_memory_bytes is not None]
    trainable = {run.trainable for run in runs if run.trainable is not None}
    per_case = nanmean(scores.of_cases, 1)
    overall = nanmean(nanmean(scores.values, 1), 1)  # (seeds, metrics)
    return {
        "trainable": max(trainable, default=None),
        "runs": len(runs),
        "seconds_per_run": sum(seconds) / len(seconds) if seconds else None,
        "peak_memory_bytes": max(memory, default=None),
        "missed": scores.missed,
        "mean": {
            metric: {
                "mean": float(nanmean(nanmean(scores.of_cases[:, :, index], 0), 0)),
                "sd_cases": _sd(per_case[:, index]),
                "sd_seeds": _sd(overall[:, index]),
            }
            for index, metric in enumerate(metrics)
        },
        "by_class": {
            name: {
                metric: {
                    "mean": float(nanmean(scores.of_cases[:, at, index], 0)),
                    "sd_cases": _sd(scores.of_cases[:, at, index]),
                    "sd_seeds": _sd(nanmean(scores.values[:, :, at, index], 1)),
                }
                for index, metric in enumerate(metrics)
            }
            for at, name in enumerate(classes)
        },
    }


def _ranks(values: Sequence[float], methods: Sequence[str]) -> dict[str, int]:
    """1 for the highest value; equal values share a rank, undefined ones come last."""
    known = [-math.inf if math.isnan(value) else value for value in values]
    return {method: 1 + sum(other > value for other in known) for method, value in zip(methods, known, strict=True)}


def _tests(scores: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every pair of methods in one metric; ``scores`` are (cases, classes)."""
    pairs = list(itertools.combinations(scores, 2))
    compared = []
    for first, second in pairs:
        both = np.where(np.isnan(scores[first]) | np.isnan(scores[second]), np.nan, 1.0)
        compared.append([nanmean(scores[method] * both, 1) for method in (first, second)])
    p_values = [wilcoxon(one, other) for one, other in compared]
    return [
        {
            "first": first,
            "second": second,
            "cases": int((~np.isnan(one - other)).sum()),
            "difference": float(nanmean(one - other, 0)),
            "p": p,
            "p_holm": corrected,
        }
        for (first, second), (one, other), p, corrected in zip(pairs, compared, p_values, holm(p_values), strict=True)
    ]


def _notes(runs: Sequence[ScoredRun], cases: int, methods: int) -> list[str]:
    notes = list(
        dict.fromkeys(note for run in runs for note in run.summary["notes"] if not note.startswith(NO_DISTANCE))
    )
    pairs = math.comb(methods, 2)
    smallest = min(1.0, pairs * 2.0 ** (1 - cases))
    if smallest > _SIGNIFICANT:
        corrected = f", corrected for {counted(pairs, 'pair')} of methods," if pairs > 1 else ""
        notes.append(
            f"With {counted(cases, 'case')} no difference can be significant: the smallest p that the test can "
            f"give{corrected} is {smallest:.2g}. Use --folds, or more cases."
        )
    return notes


def _distance_notes(scores: Mapping[str, _Scores], metrics: Sequence[str]) -> Iterator[str]:
    """What means of HD95 leave out: structures that a method missed or invented have none."""
    if "hd95" not in metrics:
        return
    index = list(metrics).index("hd95")
    defined = {method: ~np.isnan(each.of_cases[:, :, index]) for method, each in scores.items()}
    if all(np.array_equal(found, next(iter(defined.values()))) for found in defined.values()):
        return
    counts = ", ".join(f"{method} {found.sum()}" for method, found in defined.items())
    yield (
        f"The means of HD95 are over different structures, since those that a method misses have none ({counts} of "
        f"{next(iter(defined.values())).size}): a lower mean may come from missing more. The tests compare cases by "
        "the classes that both methods have a value of."
    )


# ---------------------------------------------------------------------------------------------------------- numbers


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _sd(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.std(ddof=1)) if kept.size > 1 else math.nan
