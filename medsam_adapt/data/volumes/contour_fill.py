"""From the contours of one structure on one slice to the pixels that belong to it.

DICOM PS3.3 C.8.8.6.3: the points on a contour's path belong to the region, as do those inside. Contours that many
programs write run exactly through pixel centres, where a test of "inside" alone is decided by rounding errors, so the
interior and the path are computed apart. All coordinates are in pixels: (i, j) is the centre of pixel [i, j].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

ON_PATH = 0.01  # pixels; coordinates are written with two decimals of a millimetre, or with more
SAME_OUTLINE = 0.25  # pixels; copies that were rounded or thinned out differ by less, and no wall is as thin


@dataclass(frozen=True, eq=False)
class Contour:
    """One closed contour.

    Attributes:
        points: (N, 2) vertices in pixels; the last is joined to the first.
        shape: of the slice.
        exclusive: whether the file declares that it is combined with the others by exclusive or (CLOSEDPLANAR_XOR).
    """

    points: np.ndarray
    shape: tuple[int, int]
    exclusive: bool = False

    @cached_property
    def _masks(self) -> tuple[np.ndarray, np.ndarray]:
        path = _on_path(self.points, self.shape)
        inside = _inside(self.points, self.shape)
        return inside | path, inside & ~path

    @property
    def closed(self) -> np.ndarray:
        """(rows, columns) bool: the pixels inside and those on the path."""
        return self._masks[0]

    @property
    def open(self) -> np.ndarray:
        """(rows, columns) bool: the pixels inside that are not on the path."""
        return self._masks[1]

    @cached_property
    def bounds(self) -> np.ndarray:
        """(2, 2): the lowest and the highest coordinates."""
        return np.stack([self.points.min(axis=0), self.points.max(axis=0)])

    @cached_property
    def turn(self) -> float:
        """Twice the signed area, whose sign is the direction in which the contour runs."""
        (x, y), (u, v) = self.points.T, np.roll(self.points, -1, axis=0).T
        return float(np.sum(x * v - u * y))

    def follows(self, other: Contour) -> bool:
        """Whether two contours have the same outline, whatever their first points, directions and densities."""
        if np.abs(self.bounds - other.bounds).max() > SAME_OUTLINE:
            return False
        apart = _distances(self.points, other.points), _distances(other.points, self.points)
        return bool(np.concatenate(apart).max() <= SAME_OUTLINE)

    def holds(self, other: Contour) -> bool:
        """Whether ``other`` lies within this contour, which it may touch."""
        (low, high), (lowest, highest) = other.bounds, self.bounds
        if (low < lowest - ON_PATH).any() or (high > highest + ON_PATH).any():
            return False
        if (other.closed & ~self.closed).any():
            return False
        outside = other.points[~_contains(self.points, other.points)]
        return bool((_distances(outside, self.points) <= ON_PATH).all())


def fill(contours: Sequence[Contour], doubled: bool = False) -> np.ndarray:
    """The pixels of a structure on one slice, (rows, columns) bool.

    Copies of a contour count once. Contours marked as exclusive are combined by exclusive or. Of the others, one that
    lies within another cuts a hole, one within the hole is an island again, and so on; the path of a hole belongs to
    the structure. Those that lie beside each other or overlap are joined.

    Args:
        contours: at least one, of the same shape.
        doubled: whether every contour of the structure is there twice: then a copy that runs in the other direction is
            a copy too, and not the inner edge of a wall that is one pixel wide.
    """
    whole = np.zeros(contours[0].shape, dtype=bool)
    low = np.floor(np.min([contour.bounds[0] for contour in contours], axis=0)).clip(0, whole.shape).astype(int)
    high = np.ceil(np.max([contour.bounds[1] for contour in contours], axis=0) + 1).clip(0, whole.shape).astype(int)
    box = whole[low[0] : high[0], low[1] : high[1]]  # a view: most structures fill a small part of the slice
    if box.size == 0:
        return whole
    kept = [Contour(contour.points - low, box.shape, contour.exclusive) for contour in contours]
    kept = _without_copies(kept, doubled)
    box |= _joined([contour for contour in kept if not contour.exclusive], box.shape)
    for contour in kept:
        if contour.exclusive:
            box ^= contour.closed
    return whole


def is_doubled(contours: Sequence[Contour]) -> bool:
    """Whether every contour of one slice has a copy on it."""
    return all(any(other is not contour and contour.follows(other) for other in contours) for contour in contours)


def _without_copies(contours: Sequence[Contour], doubled: bool) -> list[Contour]:
    kept: list[Contour] = []
    for contour in contours:
        if not any(_is_copy(contour, other, doubled) for other in kept):
            kept.append(contour)
    return kept


def _is_copy(contour: Contour, other: Contour, doubled: bool) -> bool:
    if contour.exclusive != other.exclusive or not contour.follows(other):
        return False
    # Programs that trace pixel centres draw both edges of a wall of one pixel on the same line, in opposite directions.
    return doubled or contour.exclusive or contour.turn * other.turn >= 0


def _joined(contours: Sequence[Contour], shape: tuple[int, int]) -> np.ndarray:
    """Outermost contours with what lies within each of them, joined."""
    within = [
        [index for index, outer in enumerate(contours) if outer is not inner and _encloses(outer, inner, contours)]
        for inner in contours
    ]
    region = np.zeros(shape, dtype=bool)
    for root, outer in enumerate(contours):
        if within[root]:
            continue
        members = [index for index, around in enumerate(within) if root in around]
        depths = {index: 1 + sum(around in members for around in within[index]) for index in members}
        part = outer.closed.copy()
        for index in sorted(members, key=depths.__getitem__):
            if depths[index] % 2:
                part &= ~contours[index].open
            else:
                part |= contours[index].closed
        region |= part
    return region


def _encloses(outer: Contour, inner: Contour, contours: Sequence[Contour]) -> bool:
    if not outer.holds(inner):
        return False
    # Of two on one line, the first in the file is the outer one.
    return not inner.holds(outer) or contours.index(outer) < contours.index(inner)


# ----------------------------------------------------------------------------------------------- geometry of polygons


def _inside(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Even-odd rule along each row of pixels; pixels on the path fall on either side."""
    rows, columns = shape
    starts, ends = points, np.roll(points, -1, axis=0)
    row, at = _crossings(starts, ends, rows, closed=False)
    column = np.ceil(at[:, 1]).clip(0, columns).astype(np.int64)
    flips = np.zeros((rows, columns + 1), dtype=np.int32)
    np.add.at(flips, (row, column), 1)
    return np.cumsum(flips, axis=1)[:, :columns] % 2 == 1


def _on_path(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres lie on an edge or a vertex, found along rows and along columns."""
    path = np.zeros(shape, dtype=bool)
    for mask, order in ((path, (0, 1)), (path.T, (1, 0))):
        starts = points[:, order]
        row, at = _crossings(starts, np.roll(starts, -1, axis=0), mask.shape[0], closed=True)
        column = np.rint(at[:, 1])
        near = (np.abs(at - np.stack([row, column], axis=1)) <= ON_PATH).all(axis=1)
        near &= (column >= 0) & (column < mask.shape[1])
        mask[row[near], column[near].astype(np.int64)] = True
    return path


def _crossings(starts: np.ndarray, ends: np.ndarray, rows: int, closed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Each row that each edge crosses, and the point (M, 2) of the edge that is nearest to the row.

    ``closed`` takes both ends of an edge and a margin of `ON_PATH`; otherwise every row that a polygon crosses is
    crossed an even number of times.
    """
    low, high = np.minimum(starts[:, 0], ends[:, 0]), np.maximum(starts[:, 0], ends[:, 0])
    first = np.ceil(low - ON_PATH if closed else low).clip(0, rows)
    last = (np.floor(high + ON_PATH) + 1 if closed else np.ceil(high)).clip(0, rows)
    counts = np.maximum(last - first, 0).astype(np.int64)
    edge = np.repeat(np.arange(len(starts)), counts)
    row = first.astype(np.int64)[edge] + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rise = (ends - starts)[edge, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(rise == 0, 0.0, (row - starts[edge, 0]) / rise).clip(0, 1)
    return row, starts[edge] + share[:, None] * (ends - starts)[edge]


def _distances(points: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """(N,) distance of each point to the nearest edge of the closed ``outline``."""
    starts, steps = outline, np.roll(outline, -1, axis=0) - outline
    squared = np.einsum("ij,ij->i", steps, steps)
    nearest = np.empty(len(points))
    for index, point in enumerate(points):  # an edge matrix of long contours would not fit
        offset = point - starts
        share = np.einsum("ij,ij->i", offset, steps) / np.where(squared == 0, 1, squared)
        away = offset - share.clip(0, 1)[:, None] * steps
        nearest[index] = np.einsum("ij,ij->i", away, away).min()
    return np.sqrt(nearest)


def _contains(outline: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) bool: even-odd rule for points between the pixels."""
    (x, y), (u, v) = outline.T, np.roll(outline, -1, axis=0).T
    inside = np.empty(len(points), dtype=bool)
    for index, (row, column) in enumerate(points):
        edges = np.flatnonzero((x > row) != (u > row))
        at = y[edges] + (row - x[edges]) / (u - x)[edges] * (v - y)[edges]
        inside[index] = np.count_nonzero(at > column) % 2
    return inside
