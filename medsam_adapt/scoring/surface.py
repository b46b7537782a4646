"""Distances between the surfaces of two masks, from which HD95 and NSD follow.

The surface of a mask is the set of its voxels with at least one of the six face neighbours outside the mask; what lies
beyond the volume counts as outside. Distances are between voxel centres, in mm. This is also the surface of MONAI's
metrics, to which the tests hold these functions; here HD95 and NSD share one search for the nearest voxels, and torch
is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.core.lazy import lazy_module

if TYPE_CHECKING:
    from scipy import ndimage, spatial
else:
    ndimage = lazy_module("scipy.ndimage")
    spatial = lazy_module("scipy.spatial")

# A distance transform costs by the voxel, a search by the point: beyond this share of surface voxels (a mask of
# scattered voxels) the transform is faster.
_DENSE = 0.1


def surface_voxels(mask: np.ndarray) -> np.ndarray:
    """The surface of a mask (X, Y, Z) bool, as a mask of the same shape."""
    padded = np.pad(mask, 1)
    centre = (slice(1, -1),) * mask.ndim
    inside = mask.copy()
    for axis in range(mask.ndim):
        for neighbour in (slice(None, -2), slice(2, None)):
            inside &= padded[(*centre[:axis], neighbour, *centre[axis + 1 :])]
    return mask & ~inside


def surface_distances(first: np.ndarray, second: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from each surface voxel of one mask to the nearest one of the other, and back.

    Args:
        first: mask (X, Y, Z) bool, not empty.
        second: the same.
        spacing: mm along the three axes.
    """
    surfaces = surface_voxels(first), surface_voxels(second)
    if max(np.count_nonzero(surface) for surface in surfaces) > _DENSE * first.size:
        there, back = (ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces)
        return back[surfaces[0]], there[surfaces[1]]
    points = [np.argwhere(surface) * np.asarray(spacing, dtype=np.float64) for surface in surfaces]
    there, back = (spatial.KDTree(target, leafsize=32).query(source)[0] for source, target in (points, points[::-1]))
    return there, back


def hausdorff95(distances: tuple[np.ndarray, np.ndarray]) -> float:
    """HD95 in mm: the greater of the two directed 95th percentiles (interpolated linearly between ranks)."""
    return float(max(np.percentile(directed, 95) for directed in distances))


def surface_dice(distances: tuple[np.ndarray, np.ndarray], tolerance: float) -> float:
    """NSD: the share of the surface voxels of both masks that lie within ``tolerance`` mm of the other surface."""
    near = sum(int(np.count_nonzero(directed <= tolerance)) for directed in distances)
    return near / sum(directed.size for directed in distances)


def surface_dice_by_area(first: np.ndarray, second: np.ndarray, spacing: Sequence[float], tolerance: float) -> float:
    """NSD by area, as challenges define it: surface elements between the voxels, each weighted by its area in mm².

    Args:
        first: mask (X, Y, Z) bool, not empty.
        second: the same.
        spacing: mm along the three axes.
        tolerance: mm.
    """
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    edges_first, edges_second, *areas = get_mask_edges(first, second, spacing=list(spacing))
    near = total = 0.0
    for source, target, area in ((edges_first, edges_second, areas[0]), (edges_second, edges_first, areas[1])):
        weights = np.asarray(area)[np.asarray(source)]
        distances = np.asarray(get_surface_distance(source, target, spacing=list(spacing)))
        near += float(weights[distances <= tolerance].sum())
        total += float(weights.sum())
    return near / total
