"""Connected pieces of a class: whether it is one in a label, and fragments removed from a predicted map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.core.lazy import lazy_module

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = lazy_module("scipy.ndimage")

_ALL_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)  # pieces that touch at a corner are one
_WHOLE = 0.98  # share of a class's voxels that its largest piece has where the class is one piece
_FRAGMENT = 0.25  # of the largest piece: less is no part of a class that is one piece


def are_one_piece(labels: np.ndarray, count: int) -> np.ndarray:
    """(C,) bool: which of the classes 1 to ``count`` are one piece of a map (X, Y, Z), but for a few voxels.

    A class without a voxel is.
    """
    single = np.ones(count, dtype=bool)
    for number, box in enumerate(ndimage.find_objects(labels, count), start=1):
        if box is not None:
            sizes = _pieces(labels[box] == number)[1][1:]
            single[number - 1] = sizes.max() >= _WHOLE * sizes.sum()
    return single


def without_fragments(classes: np.ndarray, whole: Sequence[int]) -> np.ndarray:
    """A map (X, Y, Z) without pieces of the classes ``whole`` that have under a quarter of their largest one's voxels.

    It is ``classes`` itself where nothing is to be removed, else a new array; removed voxels become background.
    """
    if not whole:
        return classes
    cleaned = np.array(classes)
    boxes = ndimage.find_objects(cleaned, max(whole))
    for number in whole:
        if (box := boxes[number - 1]) is not None:
            part = cleaned[box]
            pieces, sizes = _pieces(part == number)
            small = sizes < _FRAGMENT * sizes[1:].max()
            small[0] = False
            part[small[pieces]] = 0
    return cleaned


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each voxel's piece, 0 outside, and the voxels of each number."""
    pieces, _ = ndimage.label(mask, _ALL_NEIGHBOURS)
    return pieces, np.bincount(pieces.ravel())
