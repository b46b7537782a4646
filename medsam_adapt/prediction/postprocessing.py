"""Clean-up of masks, off unless asked for: the largest piece alone, holes filled, small pieces removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_ALL_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)  # pieces that touch at a corner are one
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Cleaning:
    """What is done to each class by itself, in this order.

    Attributes:
        largest_component: only the largest connected piece is kept.
        fill_holes: background that a class encloses on all sides becomes that class; other classes are left alone.
        min_volume_ml: smaller pieces are removed.
    """

    largest_component: bool = False
    fill_holes: bool = False
    min_volume_ml: float = 0.0

    def __bool__(self) -> bool:
        return self.largest_component or self.fill_holes or self.min_volume_ml > 0

    def __call__(self, voxels: np.ndarray, label_ids: Sequence[int], voxel_ml: float) -> np.ndarray:
        """The cleaned map, a new array.

        Args:
            voxels: label ids (X, Y, Z), or masks of 0 and 1 (C, X, Y, Z).
            label_ids: of the classes.
            voxel_ml: volume of a voxel in millilitres.
        """
        cleaned = np.array(voxels)
        if voxels.ndim == 4:
            for mask in cleaned:
                self._clean(mask, [1], voxel_ml)
        else:
            self._clean(cleaned, label_ids, voxel_ml)
        return cleaned

    def _clean(self, voxels: np.ndarray, label_ids: Sequence[int], voxel_ml: float) -> None:
        """Clean each class in place, within the box that it occupies, which no other class's cleaning changes."""
        for label_id, box in bounding_boxes(voxels, label_ids).items():
            part = voxels[box]
            before = mask = part == label_id
            if self.largest_component:
                from monai.transforms.utils import get_largest_connected_component_mask  # slow to import

                mask = np.asarray(get_largest_connected_component_mask(mask)).astype(bool)
            if self.fill_holes:
                mask = mask | (ndimage.binary_fill_holes(mask) & (part == 0))
            if self.min_volume_ml > 0:
                mask = _without_small(mask, self.min_volume_ml / voxel_ml)
            part[before] = 0
            part[mask] = label_id


def bounding_boxes(voxels: np.ndarray, label_ids: Sequence[int]) -> dict[int, Box]:
    """The box of each label that has a voxel in (X, Y, Z) ``voxels``, found in one pass along their memory."""
    order = np.argsort(np.abs(voxels.strides))[::-1]  # reading a volume across its memory takes many times as long
    boxes = ndimage.find_objects(voxels.transpose(order), max(label_ids))
    back = np.argsort(order)
    return {
        label_id: (box[back[0]], box[back[1]], box[back[2]])
        for label_id in label_ids
        if (box := boxes[label_id - 1]) is not None
    }


def piece_sizes(mask: np.ndarray) -> np.ndarray:
    """Voxels of each connected piece of a mask (X, Y, Z), the largest first."""
    pieces, _ = ndimage.label(mask, _ALL_NEIGHBOURS)
    return np.sort(np.bincount(pieces.ravel())[1:])[::-1]


def _without_small(mask: np.ndarray, smallest: float) -> np.ndarray:
    """The pieces of at least ``smallest`` voxels."""
    pieces, _ = ndimage.label(mask, _ALL_NEIGHBOURS)
    kept = np.bincount(pieces.ravel()) >= smallest
    kept[0] = False
    return kept[pieces]
