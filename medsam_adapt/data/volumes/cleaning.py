"""Clean-up of masks: the largest piece alone, holes filled, small pieces and pieces far away removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.core.lazy import lazy_module
from medsam_adapt.data.volumes.label_runs import bounding_boxes, sizes_by_runs

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = lazy_module("scipy.ndimage")

_ALL_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)  # pieces that touch at a corner are one


@dataclass(frozen=True)
class Cleaning:
    """What is done to each class by itself, in this order.

    Attributes:
        largest_component: only the largest connected piece is kept.
        fill_holes: background that a class encloses on all sides becomes that class; other classes are left alone.
        min_volume_ml: smaller pieces are removed.
        min_share: pieces of less than this share of the largest one's volume are removed.
        longest_mm: from the second largest on, a piece is removed if it would make the diagonal of the box around the
            largest piece, and those kept before it, longer than this; 0 for no limit.
    """

    largest_component: bool = False
    fill_holes: bool = False
    min_volume_ml: float = 0.0
    min_share: float = 0.0
    longest_mm: float = 0.0

    def __bool__(self) -> bool:
        return self.largest_component or self.fill_holes or self._removes_pieces

    @property
    def _removes_pieces(self) -> bool:
        return self.min_volume_ml > 0 or self.min_share > 0 or self.longest_mm > 0

    def __call__(self, voxels: np.ndarray, label_ids: Sequence[int], sides: Sequence[float]) -> np.ndarray:
        """The cleaned map, a new array.

        Args:
            voxels: label ids (X, Y, Z), or masks of 0 and 1 (C, X, Y, Z).
            label_ids: of the classes.
            sides: of a voxel, mm.
        """
        if voxels.ndim == 4:
            return np.stack([clean_each(mask, {1: self}, sides) for mask in voxels])
        return clean_each(voxels, dict.fromkeys(label_ids, self), sides)

    def of_class(self, mask: np.ndarray, free: np.ndarray, sides: Sequence[float]) -> np.ndarray:
        """One class cleaned, (X, Y, Z) bool.

        Args:
            mask: (X, Y, Z) bool, the class in the box that it occupies.
            free: (X, Y, Z) bool, background, where a hole may be filled.
            sides: of a voxel, mm.
        """
        if self.largest_component:
            from monai.transforms.utils import get_largest_connected_component_mask  # slow to import

            mask = np.asarray(get_largest_connected_component_mask(mask)).astype(bool)
        if self.fill_holes:
            mask = mask | (ndimage.binary_fill_holes(mask) & free)
        if self._removes_pieces:
            pieces, sizes = _pieces(mask)
            smallest = 1000 * self.min_volume_ml / float(np.prod(sides))
            kept = sizes >= max(smallest, self.min_share * sizes[1:].max(initial=0))
            kept[0] = False
            if self.longest_mm > 0 and kept.sum() > 1:
                _drop_far(kept, pieces, sizes, sides, self.longest_mm)
            mask = kept[pieces]
        return mask


def clean_each(voxels: np.ndarray, cleanings: Mapping[int, Cleaning], sides: Sequence[float]) -> np.ndarray:
    """A map of labels (X, Y, Z), a new array, with each label cleaned in its own way, in the order given.

    Each is cleaned within the box that it occupies, which no other label's cleaning changes.

    Args:
        voxels: the map, its axes in any order.
        cleanings: by label.
        sides: of a voxel along the axes of the map, mm.
    """
    cleaned = np.array(voxels)
    for label, box in bounding_boxes(cleaned, list(cleanings)).items():
        part = cleaned[box]
        before = part == label
        after = cleanings[label].of_class(before, part == 0, sides)
        part[before] = 0
        part[after] = label
    return cleaned


def voxel_ml(affine: np.ndarray) -> float:
    """Volume of a voxel in millilitres, from the (4, 4) affine to mm."""
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def voxel_sides(affine: np.ndarray) -> list[float]:
    """Sides of a voxel in mm, from the (4, 4) affine to mm; a sheared one's are shortened to its volume."""
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    share = 1000 * voxel_ml(affine) / float(np.prod(sides))
    return [float(side) for side in (sides if np.isclose(share, 1, rtol=1e-6) else sides * share ** (1 / 3))]


def diagonal(box: Sequence[slice], sides: Sequence[float]) -> float:
    """Of a box of voxels, mm."""
    return float(np.linalg.norm([(s.stop - s.start) * side for s, side in zip(box, sides, strict=True)]))


def piece_sizes(mask: np.ndarray) -> np.ndarray:
    """Voxels of each connected piece of a mask (X, Y, Z), the largest first."""
    sizes = sizes_by_runs(mask)
    return np.sort(_pieces(mask)[1][1:] if sizes is None else sizes)[::-1]


def largest_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The box around the largest piece of a mask (X, Y, Z) that has one."""
    pieces, sizes = _pieces(mask)
    return ndimage.find_objects(pieces)[int(sizes[1:].argmax())]


def _drop_far(kept: np.ndarray, pieces: np.ndarray, sizes: np.ndarray, sides: Sequence[float], longest: float) -> None:
    """Set ``kept`` (numbers of pieces,) False for those that `Cleaning.longest_mm` removes."""
    boxes = ndimage.find_objects(pieces)
    first, *rest = sorted(np.flatnonzero(kept).tolist(), key=lambda number: (-sizes[number], number))
    around = boxes[first - 1]
    for number in rest:
        both = zip(around, boxes[number - 1], strict=True)
        wider = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in both)
        if diagonal(wider, sides) > longest:
            kept[number] = False
        else:
            around = wider


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each voxel's piece, 0 outside, and the voxels of each number."""
    pieces, _ = ndimage.label(mask, _ALL_NEIGHBOURS)
    return pieces, np.bincount(pieces.ravel(), minlength=1)
