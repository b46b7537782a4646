"""The scores of one class as other libraries compute them, so that a published table can be compared with.

Each function takes two masks in their whole volume and gives what the library's own functions give; docs/peers.md
states where they differ. What a library refuses to compute, or gives as infinite, has no value here (NaN). The tests
hold them to the libraries themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.lazy import lazy_module
from medsam_adapt.scoring.surface import hausdorff95, surface_distances

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = lazy_module("scipy.ndimage")

Convention: TypeAlias = Literal["ours", "monai", "medpy", "seg-metrics", "surface-distance"]
METRICS = ("dsc", "iou", "hd95", "msd")

REMARKS: dict[str, str] = {
    "monai": "MONAI 1.6.1: a class that is empty in the reference has no DSC and no IoU, whatever was predicted. HD95 "
    "is the greater of both directions, MSD the mean over the surface voxels of both (symmetric=True).",
    "medpy": "medpy 0.5.2: HD95 is the percentile, and MSD (assd) the mean, of both directions pooled. A class that is "
    "empty in one mask has neither, since medpy raises; one that is empty in both has DSC and IoU 1 (with NumPy 2.4, "
    "medpy's own DSC is not a number there).",
    "seg-metrics": "seg-metrics 1.2.8: a class that is empty in one mask has HD95 and MSD 0, and one that is empty in "
    "both DSC 1. Surfaces are thicker (26 neighbours, and none at the edge of the volume); both directions are pooled.",
    "surface-distance": "surface-distance 0.1: distances lie between surface elements and are weighted by their area. "
    "HD95 is the greater of both directions, MSD the mean of the two. A class that is empty in one mask has an "
    "infinite HD95 there, and no value here.",
}


def check_convention(name: str) -> Convention:
    """``name`` as a convention.

    Raises:
        InputError: there is none of that name.
    """
    found: Convention | None = next((known for known in get_args(Convention) if known == name), None)
    if found is None:
        raise InputError(f"--convention {name}: there is no such convention. Use {', '.join(get_args(Convention))}.")
    return found


def convention_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], convention: Convention
) -> dict[str, float]:
    """DSC, IoU, HD95 and mean surface distance (``msd``) of one class.

    Args:
        prediction: mask (X, Y, Z) bool of the whole volume, since some libraries treat its edges differently.
        reference: the same.
        spacing: mm along the three axes.
        convention: but for ``ours``.
    """
    sizes = int(prediction.sum()), int(reference.sum())
    shared = int(np.count_nonzero(prediction & reference))
    dsc = 2 * shared / sum(sizes) if any(sizes) else math.nan
    iou = shared / (sum(sizes) - shared) if any(sizes) else math.nan
    scores = {"dsc": dsc, "iou": iou, "hd95": math.nan, "msd": math.nan}
    return scores | _LIBRARIES[convention](prediction, reference, spacing, sizes)


def _monai(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], sizes: tuple[int, int]
) -> dict[str, float]:
    if not sizes[1]:
        return {"dsc": math.nan, "iou": math.nan}
    if not sizes[0]:
        return {}
    there, back = surface_distances(prediction, reference, spacing)
    return {"hd95": hausdorff95((there, back)), "msd": float(np.concatenate([there, back]).mean())}


def _medpy(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], sizes: tuple[int, int]
) -> dict[str, float]:
    if not any(sizes):
        return {"dsc": 1.0, "iou": 1.0}
    if not all(sizes):
        return {}
    there, back = surface_distances(prediction, reference, spacing)
    hd95 = np.percentile(np.concatenate([there, back]), 95)
    return {"hd95": float(hd95), "msd": float(np.concatenate([there, back]).mean())}


def _seg_metrics(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], sizes: tuple[int, int]
) -> dict[str, float]:
    if not any(sizes):
        return {"dsc": 1.0, "iou": 1.0, "hd95": 0.0, "msd": 0.0}
    surfaces = [
        mask & ~ndimage.binary_erosion(mask, np.ones((3, 3, 3)), border_value=1) for mask in (prediction, reference)
    ]
    pooled = []
    for source, target, size in zip(surfaces, surfaces[::-1], sizes[::-1], strict=True):
        # A mask without a surface fills the volume; one without a voxel is 0 away from everything.
        away = ndimage.distance_transform_edt(~target, sampling=spacing) if size else np.zeros(source.shape)
        pooled.append(away[source])
    distances = np.concatenate(pooled)
    return {"hd95": float(np.percentile(distances, 95)), "msd": float(distances.mean())} if distances.size else {}


def _surface_distance(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], sizes: tuple[int, int]
) -> dict[str, float]:
    if not all(sizes):
        return {}
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    edges_first, edges_second, *areas = get_mask_edges(prediction, reference, spacing=list(spacing))
    directed = []
    for source, target, area in ((edges_first, edges_second, areas[0]), (edges_second, edges_first, areas[1])):
        weights = np.asarray(area)[np.asarray(source)].astype(np.float64)
        distances = np.asarray(get_surface_distance(source, target, spacing=list(spacing)), dtype=np.float64)
        order = np.lexsort((weights, distances))  # as the library sorts
        weights, distances = weights[order], distances[order]
        reached = np.searchsorted(np.cumsum(weights) / weights.sum(), 0.95)
        percentile = distances[min(int(reached), len(distances) - 1)]
        directed.append((float(percentile), float((weights * distances).sum() / weights.sum())))
    return {"hd95": max(each[0] for each in directed), "msd": sum(each[1] for each in directed) / 2}


_Library: TypeAlias = Callable[[np.ndarray, np.ndarray, Sequence[float], tuple[int, int]], dict[str, float]]
_LIBRARIES: dict[str, _Library] = {
    "monai": _monai,
    "medpy": _medpy,
    "seg-metrics": _seg_metrics,
    "surface-distance": _surface_distance,
}
