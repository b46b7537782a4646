"""From a volume to the square slices that SAM sees, and back: one plan, used in training and at prediction alike.

A volume arrives in RAS order, (X, Y, Z). Its slices are laid out as a radiologist views them: patient right on the
left of an axial or coronal slice, anterior or superior at the top.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medsam_adapt.config import Axis
from medsam_adapt.data.volumes.io import VolumeHeader, to_ras

_SLICE_AXIS: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
SMALLEST_FITTING, LARGEST_FITTING = 64, 128
_LONGEST_VOXEL = 1.6  # times its shortest side, where slices of three directions are learned
_THICK = 1.6  # times the next longest side of a voxel, where volumes were acquired as slices across the longest
_FEWEST_SLICES = 16  # of such a volume in each direction
_FLAT = 2  # times as many slices in the other directions, from which fewer than these are the acquired ones
_SMALL_FOR_TILE, _FITS_TILE = 0.5, 0.75  # of a tile's side: the longest structure in most volumes, and in any
_TILES_PAY_FROM = 96  # pixels of a slice's side


def volume_to_slices(volume: np.ndarray, axis: Axis) -> np.ndarray:
    """A view (N, rows, columns) of a RAS volume (X, Y, Z); further axes, such as colours, stay."""
    stack = np.moveaxis(volume, _SLICE_AXIS[axis], 0)
    return stack[:, ::-1, ::-1].swapaxes(1, 2)


def slices_to_volume(slices: np.ndarray, axis: Axis) -> np.ndarray:
    """A view (X, Y, Z) of slices (N, rows, columns): the inverse of :func:`volume_to_slices`; further axes stay."""
    stack = slices.swapaxes(1, 2)[:, ::-1, ::-1]
    return np.moveaxis(stack, 0, _SLICE_AXIS[axis])


def count_slices(shape: Sequence[int], affine: np.ndarray, axis: Axis) -> int:
    """How many slices along ``axis`` a volume has, of (X, Y, Z) or more voxels and this (4, 4) affine."""
    view, _ = to_ras(np.broadcast_to(np.uint8(0), tuple(shape)), affine)
    return len(volume_to_slices(view, axis))


def sides_of_slices(sides: Sequence[float], axis: Axis) -> tuple[float, float, float]:
    """Sides in mm of the voxels of slices (N, rows, columns), from those of a RAS volume (X, Y, Z)."""
    across, down = (direction for direction in range(3) if direction != _SLICE_AXIS[axis])
    return float(sides[_SLICE_AXIS[axis]]), float(sides[down]), float(sides[across])


def resized_sides(
    shape: Sequence[int], affine: np.ndarray, axis: Axis, resized: Sequence[int]
) -> tuple[float, float, float]:
    """The same for ``resized`` (N, rows, columns) slices of a volume of this shape and (4, 4) affine."""
    view, in_order = to_ras(np.broadcast_to(np.uint8(0), tuple(shape)), affine)
    sides = sides_of_slices(np.linalg.norm(in_order[:3, :3], axis=0), axis)
    counts = volume_to_slices(view, axis).shape
    between, down, across = (side * old / new for side, old, new in zip(sides, counts, resized, strict=False))
    return between, down, across


def slice_distance(shape: Sequence[int], affine: np.ndarray, axis: Axis) -> float:
    """Between the centres of neighbouring slices along ``axis``, in mm; arguments as for :func:`count_slices`."""
    _, in_order = to_ras(np.broadcast_to(np.uint8(0), tuple(shape)), affine)
    return float(np.linalg.norm(in_order[:3, _SLICE_AXIS[axis]]))


def slice_coordinates(axis: Axis, index: int, count: int, rows: int, columns: int) -> np.ndarray:
    """Where the pixels of a slice lie in its volume: (3, rows, columns) float32, towards right, anterior and superior.

    From -1 to 1 between the faces of the volume, at the centres of pixels.

    Args:
        axis: slicing direction.
        index: of the slice, as :func:`volume_to_slices` counts.
        count: of all slices.
        rows, columns: of the slice, resized or not.
    """
    across, down = [direction for direction in range(3) if direction != _SLICE_AXIS[axis]]
    coordinates = np.empty((3, rows, columns), np.float32)
    coordinates[_SLICE_AXIS[axis]] = _centres(count)[index]
    coordinates[across] = _centres(columns)[::-1]  # towards -1, as slices are laid out
    coordinates[down] = _centres(rows)[::-1, None]
    return coordinates


def _centres(count: int) -> np.ndarray:
    """Of ``count`` equal parts of the way from -1 to 1."""
    return ((2 * np.arange(count) + 1) / count - 1).astype(np.float32)


@dataclass(frozen=True)
class SlicePlan:
    """How slices of ``native`` rows and columns fit into a square of ``image_size`` pixels.

    The longest side in mm fills the square and the other keeps the physical proportion; the rest, at the right and
    the bottom, is padding.

    Attributes:
        native: (rows, columns) of a slice in the volume.
        resized: (rows, columns) of the slice inside the square.
        image_size: side of the square, in pixels.
    """

    native: tuple[int, int]
    resized: tuple[int, int]
    image_size: int

    @classmethod
    def of(cls, shape: Sequence[int], spacing: Sequence[float], axis: Axis, image_size: int) -> SlicePlan:
        """The plan for a RAS volume of ``shape`` voxels and ``spacing`` mm, both in (X, Y, Z) order."""
        across, down = [i for i in range(3) if i != _SLICE_AXIS[axis]]
        native = (shape[down], shape[across])
        extent = (shape[down] * spacing[down], shape[across] * spacing[across])
        resized = tuple(max(1, round(image_size * side / max(extent))) for side in extent)
        return cls(native, (resized[0], resized[1]), image_size)

    def resize_image(self, slices: Tensor) -> Tensor:
        """Grey slices (N, rows, columns) on the 0-255 scale -> (N, h, w), bilinear, whole grey levels.

        Slices in colour (N, rows, columns, 3) become (N, 3, h, w).
        """
        if slices.ndim == 4:
            return torch.stack([self.resize_image(colour) for colour in slices.unbind(-1)], dim=1)
        if self.native == self.resized:
            return slices.round()
        enlarged = F.interpolate(
            slices[:, None], self.resized, mode="bilinear", align_corners=False, antialias=self._shrinks
        )
        # Whole levels, since the slices that training reads are stored in a byte: prediction sees the same.
        return enlarged[:, 0].round().clamp(0, 255)

    def resize_label(self, slices: Tensor) -> Tensor:
        """Label slices (N, rows, columns) -> (N, h, w) by nearest neighbour (of pixel centres)."""
        return _nearest(slices, self.resized)

    def restore_label(self, slices: Tensor) -> Tensor:
        """Label slices (N, h, w) -> (N, rows, columns); undoes :meth:`resize_label` where no side was shrunk."""
        return _nearest(slices, self.native)

    def restore_logits(self, logits: Tensor) -> Tensor:
        """Logits (N, K, S, S) -> (N, K, rows, columns): the padding cropped, then bilinear."""
        height, width = self.resized
        cropped = logits[..., :height, :width]
        if self.native == self.resized:
            return cropped
        return F.interpolate(cropped, self.native, mode="bilinear", align_corners=False)

    @property
    def _shrinks(self) -> bool:
        return any(small < large for small, large in zip(self.resized, self.native, strict=True))


def fitting_size(headers: Sequence[VolumeHeader], axis: Axis, largest: int = LARGEST_FITTING) -> int:
    """Side in pixels of a square in which the slices of every volume keep their finest pixels, as far as bounds allow.

    A multiple of 16 from `SMALLEST_FITTING` to ``largest``: below, a network has too few pixels to halve; above, steps
    take too long for what they give.

    Args:
        headers: of the volumes.
        axis: slicing direction.
        largest: upper bound, a multiple of 16.
    """
    sides = []
    for header in headers:
        view, affine = to_ras(np.broadcast_to(np.uint8(0), header.shape), header.affine)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        plane = [i for i in range(3) if i != _SLICE_AXIS[axis]]
        sides.append(max(view.shape[i] * spacing[i] for i in plane) / min(spacing[i] for i in plane))
    wanted = 16 * math.ceil(max(sides) / 16 - 1e-6)
    return int(min(max(wanted, SMALLEST_FITTING), largest))


def acquired_axis(headers: Sequence[VolumeHeader]) -> Axis:
    """The direction in which most volumes were acquired as slices; axial where there is no such direction.

    Slices across the thick direction keep the fine pixels that the scanner gave, as nnU-Net's planning does.

    Args:
        headers: of the volumes.
    """
    (direction, count), *_ = Counter(map(_acquired_direction, headers)).most_common(1)
    chosen = direction if 2 * count > len(headers) else None
    return next((axis for axis, index in _SLICE_AXIS.items() if index == chosen), "axial")


def _acquired_direction(header: VolumeHeader) -> int | None:
    """Index in RAS order of the direction with one slice, else of the clearly longest side of a voxel, else of few
    slices beside the other directions; None where no direction is like that.
    """
    view, affine = to_ras(np.broadcast_to(np.uint8(0), header.shape), header.affine)
    counts, sides = view.shape[:3], np.linalg.norm(affine[:3, :3], axis=0)
    fewest, next_fewest, _ = np.sort(counts)
    if fewest > 1 and np.max(sides) >= _THICK * np.sort(sides)[1]:
        return int(np.argmax(sides))
    is_flat = fewest < _FEWEST_SLICES and _FLAT * fewest <= next_fewest
    return int(np.argmin(counts)) if is_flat else None


def suits_three_planes(headers: Sequence[VolumeHeader]) -> bool:
    """Whether slices of every direction show the structures: voxels about as long as wide, and not too few of them.

    Args:
        headers: of the volumes.
    """
    for header in headers:
        sides = np.linalg.norm(header.affine[:3, :3], axis=0)
        if max(sides) > _LONGEST_VOXEL * min(sides) or min(header.shape[:3]) < _FEWEST_SLICES:
            return False
    return True


def suit_tiles(labels: Iterable[tuple[np.ndarray, np.ndarray, SlicePlan]], image_size: int) -> bool:
    """Whether tiles of `SMALLEST_FITTING` pixels show structures whole, in half the volumes with as much around them.

    Args:
        labels: of some volumes, sliced in one direction: slices (N, rows, columns) of parts, (P, C) which classes a
            part belongs to, and how slices are resized.
        image_size: side of the square of a whole slice, in pixels.
    """
    if image_size < _TILES_PAY_FROM:
        return False
    found = [_longest(slices, table, plan) for slices, table, plan in labels]
    longest = [each for each in found if each]
    if not longest:
        return False
    # By the median: one patient whose jaw is a pixel longer should not change what is trained on.
    typical, most = float(np.median(longest)), max(longest)
    return typical <= _SMALL_FOR_TILE * SMALLEST_FITTING and most <= _FITS_TILE * SMALLEST_FITTING


def _longest(slices: np.ndarray, table: np.ndarray, plan: SlicePlan) -> float:
    """The longest side of a class on a slice of one volume, in pixels of the resized slice; arguments as above."""
    longest = 0.0
    scale = max(new / old for new, old in zip(plan.resized, plan.native, strict=True))
    for parts in (np.flatnonzero(column == 1) for column in table.T):
        for mask in np.isin(slices, parts):
            if mask.any():
                sides = (np.ptp(np.flatnonzero(mask.any(axis=axis))) + 1 for axis in (0, 1))
                longest = max(longest, scale * max(sides))
    return longest


def _nearest(slices: Tensor, size: tuple[int, int]) -> Tensor:
    # In whole numbers: torch's "nearest-exact" rounds in float32, and from 4,000 pixels on it misses one.
    rows, columns = (
        (2 * torch.arange(new) + 1) * old // (2 * new) for old, new in zip(slices.shape[-2:], size, strict=True)
    )
    return slices[:, rows][:, :, columns]


def as_tensor(slices: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    """A contiguous tensor of a (possibly flipped) view."""
    # np.ascontiguousarray keeps the negative stride of a flipped axis of length 1, which torch refuses.
    return torch.from_numpy(slices.copy()).to(dtype)
