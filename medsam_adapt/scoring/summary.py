"""Scores of many cases: means, spread, confidence intervals, and the files ``metrics.json`` and ``metrics.csv``.

Means are over cases, then over classes. Those of volume differences are of their magnitudes, so that too much here and
too little there do not cancel; each class's ``statistics`` keep the sign. docs/metrics.md describes the files.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import read_record, write_json, written_whole
from medsam_adapt.core.text import counted
from medsam_adapt.core.versions import newer_error
from medsam_adapt.scoring.metrics import METRICS, QUICK, MetricRules, Scores, mean_ignoring_undefined, outcome
from medsam_adapt.scoring.stored import StoredMetrics

FORMAT = 1
METRICS_FILE, TABLE_FILE = "metrics.json", "metrics.csv"
NO_DISTANCE = "HD95 has no value for"  # begins the note on means over fewer structures
RESAMPLES, CONFIDENCE = 2000, 0.95
_WEIGHTS = 1 << 21  # of cases in resamples that are held at a time: those of 1,000 cases in all resamples


@dataclass(frozen=True)
class CaseFacts:
    """What is known of a case beside its classes' scores.

    Attributes:
        spacing: mm along the axes of ``shape``.
        shape: voxels.
        background_iou: NaN where it was not computed.
    """

    spacing: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()
    background_iou: float = math.nan


def mean_scores(cases: Mapping[str, Scores], class_names: Sequence[str], metrics: Sequence[str]) -> dict[str, float]:
    """The mean over classes of their means over cases, by metric."""
    values = magnitudes(_values(cases, class_names, metrics), metrics)
    return dict(zip(metrics, _mean_of_means(values).tolist(), strict=True))


def summarise(
    cases: Mapping[str, Scores],
    class_names: Sequence[str],
    rules: MetricRules = QUICK,
    facts: Mapping[str, CaseFacts] | None = None,
    absent: Collection[str] = (),
    notes: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """The content of ``metrics.json``; undefined values are None.

    Args:
        cases: scores by case id.
        class_names: in the order of the table.
        rules: by which they were scored.
        facts: what else is known of the cases.
        absent: classes that training never saw.
        notes: what a reader must know.
        seed: of the bootstrap.
    """
    facts = facts or {}
    metrics = rules.metrics
    values = _values(cases, class_names, metrics)
    signed, resampled = _resampled_means([values, magnitudes(values, metrics)], seed)
    classes = {
        name: _class_summary([scores[name] for scores in cases.values()], values[:, index], signed[:, index], metrics)
        for index, name in enumerate(class_names)
    }
    backgrounds = [facts[case].background_iou for case in cases if case in facts]
    return without_nan(
        {
            "format": FORMAT,
            "rules": _rules_of(rules, class_names),
            "notes": [*rules.remarks, *notes, *_distance_notes(cases, class_names, metrics)],
            "absent": list(absent),
            "mean": _mean_of_classes(classes, metrics, mean_ignoring_undefined(backgrounds)),
            "intervals": {
                name: _interval(nanmean(resampled[:, :, index], axis=1), len(cases))
                for index, name in enumerate(metrics)
            },
            "classes": classes,
            "cases": {case: _case_summary(scores, facts.get(case), metrics) for case, scores in cases.items()},
        }
    )


def write_metrics(folder: str | Path, summary: Mapping[str, Any]) -> None:
    """Write ``metrics.csv`` (a row per case and class; undefined is an empty cell) and ``metrics.json``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / TABLE_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = [
            (case, name, row) for case, content in summary["cases"].items() for name, row in content["classes"].items()
        ]
        columns = list(rows[0][2]) if rows else []
        writer = csv.writer(file)
        writer.writerow(["case", "class", *columns])
        for case, name, row in rows:
            writer.writerow([case, name, *("" if row[column] is None else row[column] for column in columns)])
    write_json(folder / METRICS_FILE, summary)


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """The content of a folder's ``metrics.json``.

    Raises:
        InputError: none there, not JSON, of another version, or damaged.
    """
    from medsam_adapt.core.json_files import read_object

    path = Path(folder) / METRICS_FILE
    if not path.is_file():
        raise InputError(f"{folder}: it has no {METRICS_FILE}. Score it with 'medsam-adapt evaluate'.")
    content = read_object(path)
    if (newer := newer_error(path, content, FORMAT)) is not None:
        raise newer
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: it is of another version. Score the run again with 'medsam-adapt evaluate'.")
    read_record(path, StoredMetrics, "Score the run again with 'medsam-adapt evaluate'.")
    return content


# --------------------------------------------------------------------------------------------------------- statistics


def _values(cases: Mapping[str, Scores], class_names: Sequence[str], metrics: Sequence[str]) -> np.ndarray:
    """(cases, classes, metrics), NaN where undefined."""
    rows = [[[scores[name][metric] for metric in metrics] for name in class_names] for scores in cases.values()]
    return np.asarray(rows, dtype=np.float64).reshape(len(cases), len(class_names), len(metrics))


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is defined, NaN (without a warning) where nothing is."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, values, 0).sum(axis=axis) / defined.sum(axis=axis))


def magnitudes(values: np.ndarray, metrics: Sequence[str]) -> np.ndarray:
    """(..., metrics) with the sign taken from metrics of which 0 is the best value."""
    signed = [METRICS[metric].better == "zero" for metric in metrics]
    return np.where(signed, np.abs(values), values)


def magnitude(value: float, metric: str) -> float:
    """A score, without its sign where 0 is the best value."""
    return abs(value) if METRICS[metric].better == "zero" else value


def _distance_notes(cases: Mapping[str, Scores], class_names: Sequence[str], metrics: Sequence[str]) -> Iterator[str]:
    """What a mean of HD95 leaves out: structures that were missed or invented have none."""
    if "hd95" not in metrics:
        return
    scored = {name: [scores[name] for scores in cases.values()] for name in class_names}
    known = {name: [not math.isnan(score["dsc"]) for score in found] for name, found in scored.items()}
    lacking = {
        name: sum(there and math.isnan(score["hd95"]) for there, score in zip(known[name], found, strict=True))
        for name, found in scored.items()
    }
    count, of = sum(lacking.values()), sum(map(sum, known.values()))
    if not count:
        return
    nowhere = [name for name in class_names if lacking[name] and lacking[name] == sum(known[name])]
    classes = f", and {', '.join(nowhere)} {'have' if len(nowhere) > 1 else 'has'} none at all" if nowhere else ""
    yield (
        f"{NO_DISTANCE} {count} of {counted(of, 'structure')}, which were missed or are not in the reference{classes}: "
        "its means are over the others. Compare them only with means over the same structures."
    )


def _mean_of_means(values: np.ndarray) -> np.ndarray:
    """(cases, classes, metrics) -> (metrics)."""
    return nanmean(nanmean(values, axis=0), axis=0)


def _resamples(count: int, seed: int) -> Iterator[np.ndarray]:
    """How often each case is in each bootstrap sample, (some of the resamples, count) float64 at a time.

    Of thousands of cases a few resamples are drawn at a time, so that the memory does not grow with the cases.
    """
    generator, left = np.random.default_rng(seed), RESAMPLES
    while left:
        rows = min(left, max(1, _WEIGHTS // max(count, 1)))
        left -= rows
        if count:
            yield generator.multinomial(count, [1 / count] * count, rows).astype(np.float64)
        else:
            yield np.zeros((rows, 0))


def _resampled_means(tables: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Class means of bootstrap samples of the cases, of each table.

    Args:
        tables: (cases, classes, metrics) each, NaN where undefined.
        seed: of the samples, which all tables share.

    Returns:
        (resamples, classes, metrics) each, NaN where a sample has no defined case.
    """
    defined = [~np.isnan(values) for values in tables]
    filled = [np.where(known, values, 0) for known, values in zip(defined, tables, strict=True)]
    counted = [known.astype(np.float64) for known in defined]
    means: list[list[np.ndarray]] = [[] for _ in tables]
    for weights in _resamples(len(tables[0]), seed):
        for found, values, known in zip(means, filled, counted, strict=True):
            with np.errstate(invalid="ignore"):
                found.append(np.tensordot(weights, values, axes=1) / np.tensordot(weights, known, axes=1))
    return [np.concatenate(found) for found in means]


def _interval(resampled: np.ndarray, defined: int) -> list[float]:
    """The percentile bootstrap interval; NaN with fewer than two cases, whose spread means nothing."""
    kept = resampled[~np.isnan(resampled)]
    if defined < 2 or not kept.size:
        return [math.nan, math.nan]
    edge = 100 * (1 - CONFIDENCE) / 2
    return [float(bound) for bound in np.percentile(kept, [edge, 100 - edge])]


def _class_summary(
    scores: Sequence[Mapping[str, float]], values: np.ndarray, resampled: np.ndarray, metrics: Sequence[str]
) -> dict[str, Any]:
    """Of one class: means, counts, and the statistics of each metric; ``values`` is (cases, metrics), with signs."""
    outcomes = [outcome(score) for score in scores]
    return {
        **dict(zip(metrics, nanmean(magnitudes(values, metrics), axis=0).tolist(), strict=True)),
        "cases": len(scores),
        "undefined": sum(math.isnan(score["dsc"]) for score in scores),
        **{kind: outcomes.count(kind) for kind in ("missed", "spurious")},
        "statistics": {name: _statistics(values[:, index], resampled[:, index]) for index, name in enumerate(metrics)},
        **(_pooled_slices(scores) if "slice_dsc" in metrics else {}),
    }


def _mean_of_classes(
    classes: Mapping[str, Mapping[str, Any]], metrics: Sequence[str], background: float
) -> dict[str, float]:
    """Means over classes; ``iou`` is the mIoU, and ``iou_with_background`` counts the background as a class."""
    names = [*metrics, "slice_dsc_pooled"] if "slice_dsc" in metrics else metrics
    mean = {name: mean_ignoring_undefined([row[name] for row in classes.values()]) for name in names}
    known = [] if math.isnan(background) else [*(row["iou"] for row in classes.values()), background]
    return {**mean, "iou_with_background": mean_ignoring_undefined(known)}


def _statistics(values: np.ndarray, resampled: np.ndarray) -> dict[str, float]:
    """Of the defined ones among the values of one metric and class."""
    kept = values[~np.isnan(values)]
    low, high = _interval(resampled, kept.size)
    if not kept.size:
        return {"defined": 0, **dict.fromkeys(("mean", "median", "sd", "low", "high", "least", "greatest"), math.nan)}
    return {
        "defined": kept.size,
        "mean": float(kept.mean()),
        "median": float(np.median(kept)),
        "sd": float(kept.std(ddof=1)) if kept.size > 1 else math.nan,
        "low": low,
        "high": high,
        "least": float(kept.min()),
        "greatest": float(kept.max()),
    }


def _pooled_slices(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """DSC per slice over the slices of all cases together, as papers give it."""
    pairs = [(score["slice_dsc"], score["slices"]) for score in scores if not math.isnan(score["slice_dsc"])]
    count = sum(slices for _, slices in pairs)
    pooled = sum(value * slices for value, slices in pairs) / count if count else math.nan
    return {"slice_dsc_pooled": pooled, "slices": int(count)}


def _case_summary(scores: Scores, facts: CaseFacts | None, metrics: Sequence[str]) -> dict[str, Any]:
    known = facts or CaseFacts()
    return {
        "spacing_mm": [round(side, 6) for side in known.spacing],
        "shape": list(known.shape),
        "background_iou": known.background_iou,
        "mean": {
            name: mean_ignoring_undefined([magnitude(score[name], name) for score in scores.values()])
            for name in metrics
        },
        "classes": {name: {**score, "outcome": outcome(score)} for name, score in scores.items()},
    }


def _rules_of(rules: MetricRules, class_names: Sequence[str]) -> dict[str, Any]:
    both_empty = {
        "undefined": "a class that is empty in both masks has no score and is not counted",
        "challenge": "a class that is empty in both masks scores 1 (HD95 has no value)",
    }[rules.empty_policy]
    return {
        "protocol": rules.protocol,
        "metrics": {
            name: {"label": METRICS[name].label, "unit": METRICS[name].unit, "better": METRICS[name].better}
            for name in rules.metrics
        },
        "empty_policy": rules.empty_policy,
        "empty_rule": (
            f"{both_empty}; one that is empty in one mask only scores 0 and has no HD95"
            if rules.convention == "ours"
            else f"that of {rules.convention}"
        ),
        "convention": rules.convention,
        "surface": rules.surface,
        "tolerances_mm": {name: rules.tolerance(name) for name in class_names} if "nsd" in rules.metrics else {},
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap of the mean over cases, {RESAMPLES} resamples",
    }


def without_nan(value: Any) -> Any:
    """The same with None for every NaN, as JSON wants it."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
