"""Scores per volume and class, in the volume's own voxels, and their means.

The empty rule: a class that is empty in prediction and reference alike has no score (undefined, not counted); one
that is empty in just one of them scores 0. Means are over volumes, then over classes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice, compute_iou

from medsam_adapt.files import write_json, written_whole

Scores = dict[str, dict[str, float]]  # class -> metric -> value, NaN where undefined
METRICS = ("dsc", "iou")


def score_volume(prediction: np.ndarray, reference: np.ndarray, class_names: Sequence[str]) -> Scores:
    """DSC and IoU of every class.

    Args:
        prediction: classes (X, Y, Z), 0 is background and i is ``class_names[i - 1]``.
        reference: the same.
        class_names: names of classes 1, 2, ….
    """
    return {
        name: _score_mask(prediction == index, reference == index) for index, name in enumerate(class_names, start=1)
    }


def _score_mask(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    if not prediction.any() and not reference.any():
        return dict.fromkeys(METRICS, math.nan)
    first, second = (torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, reference))
    return {
        "dsc": float(compute_dice(first, second, include_background=True, ignore_empty=False)),
        "iou": float(compute_iou(first, second, include_background=True, ignore_empty=False)),
    }


def mean_ignoring_undefined(values: Sequence[float]) -> float:
    """Mean of the values that are defined; NaN when none is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def summarise(cases: Mapping[str, Scores], class_names: Sequence[str]) -> dict[str, Any]:
    """The content of ``metrics.json``; undefined values are None.

    ``mean`` (over classes of their means over cases; its ``iou`` is the mIoU over the foreground classes),
    ``classes`` (means, number of ``cases`` and of ``undefined`` ones), ``cases`` (every score).
    """
    classes: dict[str, dict[str, float]] = {}
    for name in class_names:
        scores = [case[name] for case in cases.values()]
        means = {metric: mean_ignoring_undefined([score[metric] for score in scores]) for metric in METRICS}
        undefined = sum(math.isnan(score["dsc"]) for score in scores)
        classes[name] = {**means, "cases": len(scores), "undefined": undefined}
    mean = {metric: mean_ignoring_undefined([row[metric] for row in classes.values()]) for metric in METRICS}
    return _without_nan({"mean": mean, "classes": classes, "cases": cases})


def write_metrics(folder: str | Path, cases: Mapping[str, Scores], summary: Mapping[str, Any]) -> None:
    """Write ``metrics.csv`` (a row per case and class; undefined is an empty cell) and ``metrics.json``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "metrics.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", *METRICS])
        for case, scores in cases.items():
            for name, score in scores.items():
                writer.writerow([case, name, *("" if math.isnan(score[m]) else score[m] for m in METRICS)])
    write_json(folder / "metrics.json", summary)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
