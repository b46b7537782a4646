"""Scores of one volume: overlap, surface distance and volume of every class, in the volume's own voxels and mm.

The empty rule: a class that is empty in prediction and reference alike has no score (undefined, not counted); one
that is empty in just one of them scores 0, has no HD95, and is counted as missed or spurious. docs/metrics.md has the
definitions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Literal

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.lazy import lazy_module
from medsam_adapt.scoring.conventions import Convention, convention_scores
from medsam_adapt.scoring.surface import hausdorff95, surface_dice, surface_dice_by_area, surface_distances

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = lazy_module("scipy.ndimage")

Scores = dict[str, dict[str, float]]  # class -> metric -> value, NaN where undefined
Masks = np.ndarray | Mapping[str, np.ndarray]
Outcome = Literal["scored", "empty", "missed", "spurious"]
EmptyPolicy = Literal["undefined", "challenge"]


@dataclass(frozen=True)
class Metric:
    """What a metric is called and how it is read.

    Attributes:
        label: for tables.
        unit: ``mm``, ``ml`` or nothing.
        better: ``higher``, ``lower``, or ``zero`` where the value nearest 0 is best.
    """

    label: str
    unit: str
    better: Literal["higher", "lower", "zero"]


METRICS = {
    "dsc": Metric("DSC", "", "higher"),
    "iou": Metric("IoU", "", "higher"),
    "hd95": Metric("HD95", "mm", "lower"),
    "nsd": Metric("NSD", "", "higher"),
    "msd": Metric("mean surface distance", "mm", "lower"),
    "volume_difference_ml": Metric("volume difference", "ml", "zero"),
    "volume_difference_relative": Metric("relative volume difference", "", "zero"),
    "slice_dsc": Metric("DSC per slice", "", "higher"),
}
OVERLAP = ("dsc", "iou")  # cost nothing, and are always there
CHOICES = {
    "dsc": ("dsc",),
    "iou": ("iou",),
    "hd95": ("hd95",),
    "nsd": ("nsd",),
    "msd": ("msd",),
    "volume": ("volume_difference_ml", "volume_difference_relative"),
    "slice_dsc": ("slice_dsc",),
}
ALL = tuple(name for name in METRICS if name not in ("msd", "slice_dsc"))


@dataclass(frozen=True)
class MetricRules:
    """Which metrics are computed, and how.

    Attributes:
        metrics: of :data:`METRICS`; DSC and IoU are always among them.
        empty_policy: ``undefined`` leaves a class that is empty in both masks out; ``challenge`` scores it 1.
        tolerance_mm: of NSD.
        tolerances_mm: of NSD for single classes, by name.
        surface: NSD counts surface ``voxels``, or weighs surface elements by their ``area``.
        protocol: the name that these rules go by.
        remarks: what a reader of the scores must know about the protocol.
        convention: whose definitions DSC, IoU, HD95 and the mean surface distance follow (`conventions`).
    """

    metrics: tuple[str, ...] = ALL
    empty_policy: EmptyPolicy = "undefined"
    tolerance_mm: float = 1.0
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    surface: Literal["voxels", "area"] = "voxels"
    protocol: str = "default"
    remarks: tuple[str, ...] = ()
    convention: Convention = "ours"

    def __post_init__(self) -> None:
        chosen = {*OVERLAP, *self.metrics}
        object.__setattr__(self, "metrics", tuple(name for name in METRICS if name in chosen))

    def tolerance(self, class_name: str) -> float:
        """Tolerance of NSD in mm; upper and lower case are equal in names."""
        named = {name.casefold(): tolerance for name, tolerance in self.tolerances_mm.items()}
        return named.get(class_name.casefold(), self.tolerance_mm)


QUICK = MetricRules(metrics=OVERLAP)


def choose_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """The metrics that a user names: ``all``, or some of :data:`CHOICES`.

    Raises:
        InputError: for another name.
    """
    unknown = [name for name in names if name not in (*CHOICES, "all")]
    if unknown:
        raise InputError(f"--metrics: there is no {unknown[0]!r}. Use all, or some of {', '.join(CHOICES)}.")
    chosen = {metric for name in names for metric in (ALL if name == "all" else CHOICES[name])}
    return tuple(metric for metric in METRICS if metric in {*OVERLAP, *chosen})


def score_volume(
    prediction: Masks,
    reference: Masks,
    class_names: Sequence[str],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    rules: MetricRules = QUICK,
    absent: Collection[str] = (),
    slice_axis: int = 2,
) -> Scores:
    """Every metric of every class, and its volumes ``reference_ml`` and ``prediction_ml``.

    Args:
        prediction: classes (X, Y, Z), where 0 is background and i is ``class_names[i - 1]``; or, for classes that may
            overlap, masks (C, X, Y, Z) in the order of ``class_names`` or by name.
        reference: the same, in either form.
        class_names: names of classes 1, 2, ….
        spacing: mm along X, Y and Z.
        rules: which metrics, and how.
        absent: classes without a voxel in any training label: undefined, whatever the masks hold.
        slice_axis: across which the slices of ``slice_dsc`` lie.
    """
    scores: Scores = {}
    boxes = zip(_boxes(prediction, class_names), _boxes(reference, class_names), strict=True)
    for number, (name, found) in enumerate(zip(class_names, boxes, strict=True), start=1):
        # Some libraries treat the edges of the volume differently.
        box = _union(found) if rules.convention == "ours" else (slice(None),) * 3
        masks = [_mask(volume, number, name, box) for volume in (prediction, reference)]
        score = _score_masks(masks[0], masks[1], spacing, rules, rules.tolerance(name), slice_axis)
        scores[name] = {**score, **dict.fromkeys(rules.metrics, math.nan)} if name in absent else score
    return scores


def background_iou(prediction: Masks, reference: Masks) -> float:
    """IoU of the background: what belongs to no class in both, over what belongs to no class in either."""
    first, second = _foreground(prediction), _foreground(reference)
    neither, not_both = (~(first | second)).sum(), (~(first & second)).sum()
    return float(neither / not_both) if not_both else math.nan


def outcome(score: Mapping[str, float]) -> Outcome:
    """Whether a class was there and found: ``empty`` in both, ``missed``, ``spurious``, or ``scored``."""
    if not score["reference_ml"]:
        return "spurious" if score["prediction_ml"] else "empty"
    return "scored" if score["prediction_ml"] else "missed"


def mean_ignoring_undefined(values: Sequence[float]) -> float:
    """Mean of the values that are defined; NaN when none is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


# ------------------------------------------------------------------------------------------------- one pair of masks


def _score_masks(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    rules: MetricRules,
    tolerance: float,
    slice_axis: int,
) -> dict[str, float]:
    """The scores of a class from its masks, bool, in their common bounding box (empty where both are)."""
    sizes = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    voxel_ml = float(np.prod(spacing)) / 1000
    volumes = {"reference_ml": sizes[1] * voxel_ml, "prediction_ml": sizes[0] * voxel_ml}
    if not any(sizes):
        value = math.nan if rules.empty_policy == "undefined" else 1.0
        values = {"dsc": value, "iou": value, "nsd": value, "volume_difference_ml": 0.0 if value == 1 else math.nan}
    else:
        shared = int(np.count_nonzero(prediction & reference))
        values = {"dsc": 2 * shared / sum(sizes), "iou": shared / (sum(sizes) - shared)}
        values |= _volume_differences(sizes[0] * voxel_ml, sizes[1] * voxel_ml)
        if all(sizes) and rules.convention == "ours":
            values |= _surface_scores(prediction, reference, spacing, rules, tolerance)
        else:
            values["nsd"] = 0.0  # and no HD95: no surface to measure from, or to
    if rules.convention != "ours":
        values |= convention_scores(prediction, reference, spacing, rules.convention)
    if "slice_dsc" in rules.metrics:
        per_slice = slice_scores(prediction, reference, slice_axis)
        values["slice_dsc"] = float(per_slice.mean()) if per_slice.size else math.nan
        volumes["slices"] = float(per_slice.size)
    return {**{name: values.get(name, math.nan) for name in rules.metrics}, **volumes}


def _volume_differences(prediction_ml: float, reference_ml: float) -> dict[str, float]:
    difference = prediction_ml - reference_ml
    relative = difference / reference_ml if reference_ml else math.nan
    return {"volume_difference_ml": difference, "volume_difference_relative": relative}


def _surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], rules: MetricRules, tolerance: float
) -> dict[str, float]:
    by_area = rules.surface == "area"
    scores = {}
    if {"hd95", "msd"} & {*rules.metrics} or ("nsd" in rules.metrics and not by_area):
        distances = surface_distances(prediction, reference, spacing)
        scores = {"hd95": hausdorff95(distances), "nsd": surface_dice(distances, tolerance)}
        scores["msd"] = float(np.concatenate(distances).mean())
    if "nsd" in rules.metrics and by_area:
        scores["nsd"] = surface_dice_by_area(prediction, reference, spacing, tolerance)
    return scores


def slice_scores(prediction: np.ndarray, reference: np.ndarray, axis: int = 2) -> np.ndarray:
    """DSC of each slice on which the reference has the structure, as papers on 2D slices report it; slices it misses
    altogether are left out, and with them every false positive on those.

    Args:
        prediction: mask (X, Y, Z) bool.
        reference: the same.
        axis: across which the slices lie.
    """
    others = tuple(other for other in range(3) if other != axis)
    predicted, present = prediction.sum(axis=others), reference.sum(axis=others)
    shared = (prediction & reference).sum(axis=others)[present > 0]
    return np.asarray(2 * shared / (predicted + present)[present > 0])


# ------------------------------------------------------------------------------------------------- masks of a volume


def _boxes(volume: Masks, class_names: Sequence[str]) -> Iterator[tuple[slice, ...] | None]:
    """The bounding box of each class, None where it has no voxel."""
    if isinstance(volume, np.ndarray) and volume.ndim == 3:
        labels = volume if volume.dtype.kind in "iu" else volume.astype(np.int32)
        yield from ndimage.find_objects(labels, max_label=len(class_names))
        return
    masks = volume if isinstance(volume, np.ndarray) else [volume[name] for name in class_names]
    for mask in masks:
        yield ndimage.find_objects((np.asarray(mask) > 0).view(np.uint8), max_label=1)[0]


def _union(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    found = [box for box in boxes if box is not None]
    if not found:
        return (slice(0, 0),) * 3
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts)) for parts in zip(*found, strict=True)
    )


def _mask(volume: Masks, number: int, name: str, box: tuple[slice, ...]) -> np.ndarray:
    if not isinstance(volume, np.ndarray):
        return np.asarray(volume[name])[box] > 0
    return volume[box] == number if volume.ndim == 3 else volume[number - 1][box] > 0


def _foreground(volume: Masks) -> np.ndarray:
    if isinstance(volume, np.ndarray) and volume.ndim == 3:
        return volume > 0
    masks = list(volume) if isinstance(volume, np.ndarray) else list(volume.values())
    return reduce(np.logical_or, (np.asarray(mask) > 0 for mask in masks))
