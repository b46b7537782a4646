"""Boxes and pieces of labels from the runs of equal voxels along a volume's memory, of which there are few.

Real masks have a run or two in a row of voxels. Numbering every voxel's piece, as scipy.ndimage does, takes several
times as long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[slice, slice, slice]
_AT_ONCE = 1 << 20  # voxels: what is found in them stays in a processor's cache
_MOST_RUNS = 1 / 32  # of the voxels: in noise a run is not much longer than a voxel


def bounding_boxes(voxels: np.ndarray, label_ids: Sequence[int]) -> dict[int, Box]:
    """The box of each label that has a voxel in (X, Y, Z) ``voxels`` of whole numbers from 0, in the order given."""
    if not voxels.size or not label_ids:
        return {}
    order, backwards, stored = _as_stored(voxels)
    count = int(stored.max()) + 1
    first = np.full((3, count), np.iinfo(np.int64).max)
    stop = np.zeros((3, count), np.int64)
    rows, length = stored.shape[1:]
    planes = max(1, _AT_ONCE // (rows * length))
    for start in range(0, len(stored), planes):
        slab = np.ascontiguousarray(stored[start : start + planes])
        starts, stops = _runs(slab)
        labels = slab.reshape(-1)[starts]
        shown = labels != 0
        starts, stops, labels = starts[shown], stops[shown], labels[shown]
        row, column = np.divmod(starts, length)
        plane, row = np.divmod(row, rows)
        for axis, (low, high) in enumerate(
            ((plane + start, plane + start + 1), (row, row + 1), (column, column + stops - starts))
        ):
            np.minimum.at(first[axis], labels, low)
            np.maximum.at(stop[axis], labels, high)
    boxes: dict[int, Box] = {}
    for label in label_ids:
        if label < count and stop[0, label]:
            sides = [slice(0)] * 3
            for axis, place in enumerate(order):
                low, high = int(first[axis, label]), int(stop[axis, label])
                if backwards[axis]:
                    low, high = stored.shape[axis] - high, stored.shape[axis] - low
                sides[place] = slice(low, high)
            boxes[label] = (sides[0], sides[1], sides[2])
    return boxes


def sizes_by_runs(mask: np.ndarray) -> np.ndarray | None:
    """Voxels of each connected piece of a mask (X, Y, Z) bool in any order; pieces that touch at a corner are one.

    None where the mask has so many runs that this takes longer than numbering its voxels.
    """
    stored = _as_stored(mask)[2]
    # A voxel of background before each row and a row of it behind each plane: nothing is a neighbour across them.
    padded = np.zeros([stored.shape[0], stored.shape[1] + 1, stored.shape[2] + 1], bool)
    padded[:, :-1, 1:] = stored
    flat = padded.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, stops = edges[::2], edges[1::2]
    if len(starts) > _MOST_RUNS * mask.size:
        return None
    row = padded.shape[2]
    plane = row * padded.shape[1]
    ones, others = [], []
    for step in (row, plane - row, plane, plane + row):  # the other half of the neighbours finds this half
        nearest = np.searchsorted(stops, starts + step, "left")
        behind = np.searchsorted(starts, stops + step, "right")
        counts = np.maximum(behind - nearest, 0)
        ends = np.cumsum(counts)
        ones.append(np.repeat(np.arange(len(starts)), counts))
        others.append(np.arange(ends[-1] if len(ends) else 0) + np.repeat(nearest - ends + counts, counts))
    pieces = _joined(np.concatenate(ones), np.concatenate(others), len(starts))
    sizes = np.bincount(pieces, weights=stops - starts)
    return sizes[sizes > 0].astype(np.int64)


def _joined(one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """For each of ``count`` runs the first one that it is connected to, where ``one`` touches ``other``."""
    # scipy.sparse.csgraph does this too, and takes longer to import than all of it takes for a scan.
    found = np.arange(count)
    while len(one):
        lower, higher = np.minimum(found[one], found[other]), np.maximum(found[one], found[other])
        apart = lower != higher
        one, other, lower, higher = one[apart], other[apart], lower[apart], higher[apart]
        np.minimum.at(found, higher, lower)
        while not np.array_equal(found, further := found[found]):
            found = further
    return found


def _as_stored(voxels: np.ndarray) -> tuple[np.ndarray, list[bool], np.ndarray]:
    """Which axis of ``voxels`` is each one in memory, whether it runs backwards there, and the view in that order."""
    order = np.argsort(np.abs(voxels.strides), kind="stable")[::-1]
    backwards = [voxels.strides[axis] < 0 for axis in order]
    view = voxels.transpose(order)
    return order, backwards, view[tuple(slice(None, None, -1 if each else 1) for each in backwards)]


def _runs(slab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First voxel and end of each run of equal voxels in a row, counted along a contiguous (A, B, L) array."""
    flat = slab.reshape(-1)
    begins = np.empty(len(flat), bool)
    begins[0] = True
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[:: slab.shape[2]] = True
    starts = np.flatnonzero(begins)
    return starts, np.append(starts[1:], len(flat))
