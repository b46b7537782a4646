"""Whether the voxels of one volume are voxels of another's grid, and the array as it lies there, without resampling.

Two files of one grid may store it in another order of axes, or with axes flipped, and a label may cover a part of its
image only, as 3D Slicer stores it: all of this is lossless. Anything else is another grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.lazy import lazy_module
from medsam_adapt.data.volumes.formats.base import VolumeHeader, listed_size

if TYPE_CHECKING:
    from nibabel import orientations
else:
    orientations = lazy_module("nibabel.orientations")

# A volume this share of its smallest voxel side away from another is rounding; more is another grid.
ALIGNMENT_TOLERANCE = 0.1
_RESAMPLE = "Resample the label onto its image with nearest neighbour."


@dataclass(frozen=True)
class Alignment:
    """How the array of one volume becomes an array on the grid of another.

    Attributes:
        turn: (3, 2), nibabel's orientation: the grid's axis that each axis of the array runs along, and 1 or -1.
        start: grid index of the turned array's first voxel.
        turned_shape: shape of the turned array.
        shape: of the grid.
        source: the volume that is moved.
        target: the volume that has the grid.
    """

    turn: np.ndarray
    start: tuple[int, int, int]
    turned_shape: tuple[int, int, int]
    shape: tuple[int, int, int]
    source: VolumeHeader
    target: VolumeHeader

    @property
    def is_whole(self) -> bool:
        """Whether the two cover the same voxels."""
        return self.start == (0, 0, 0) and self.turned_shape == self.shape

    @property
    def is_within(self) -> bool:
        """Whether the moved volume lies inside the grid."""
        ends = (first + length for first, length in zip(self.start, self.turned_shape, strict=True))
        return min(self.start) >= 0 and all(end <= side for end, side in zip(ends, self.shape, strict=True))

    def place(self, array: np.ndarray) -> np.ndarray:
        """``array`` (X, Y, Z) of the moved volume on the grid; 0 where it covers nothing.

        Raises:
            InputError: it has voxels other than 0 outside the grid.
        """
        turned = orientations.apply_orientation(array, self.turn)
        if self.is_whole:
            return turned
        whole = np.zeros(self.shape, dtype=array.dtype)
        inside, here = [], []
        for first, length, side in zip(self.start, self.turned_shape, self.shape, strict=True):
            begin, end = max(first, 0), max(min(first + length, side), 0)
            here.append(slice(begin, max(begin, end)))
            inside.append(slice(begin - first, max(begin, end) - first))
        cropped = turned[tuple(inside)]
        if np.count_nonzero(cropped) < np.count_nonzero(turned):
            raise InputError(
                f"{self.source.path}: labelled voxels lie outside its image {self.target.path.name}. "
                "Give the label that belongs to the image."
            )
        whole[tuple(here)] = cropped
        return whole


def align(
    image: VolumeHeader,
    label: VolumeHeader,
    fix: str = _RESAMPLE,
    *,
    partial: bool = True,
    other: str = "its image",
) -> Alignment:
    """How the array of ``label`` lies on the grid of ``image``.

    Args:
        image: the volume whose grid is wanted.
        label: the volume to be moved, with which the sentence begins.
        fix: the end of the sentence.
        partial: whether ``label`` may cover another part of the grid than ``image`` does.
        other: what the sentence calls ``image``.

    Raises:
        InputError: another grid; how far apart in mm, and whether contradictory NIfTI headers are the cause.
    """
    found = _alignment(image, label)
    if found is not None and (found.is_whole or (partial and _states_its_place(found))):
        return found
    place = f"{other} {image.path.name if other == 'its image' else image.path}"
    _, turned_shape, affine = _turned(image, label)
    if turned_shape == image.shape:
        problem = f"{label.path} lies up to {_distance(image.shape, image.affine, affine):.3g} mm from {place}"
    else:
        problem = f"{label.path} has {listed_size(label.shape)} voxels and {place} {listed_size(image.shape)}"
    cause = _contradiction(image, label)
    raise InputError(f"{problem}: {cause}" if cause else f"{problem}. {fix}")


def check_same_grid(image: VolumeHeader, label: VolumeHeader) -> None:
    """`align` where only the InputError is wanted."""
    align(image, label)


def common_grid(first: VolumeHeader, second: VolumeHeader) -> VolumeHeader:
    """The one of two volumes of one lattice on whose grid both are compared: the second unless it lies in the first.

    Raises:
        InputError: as `align`.
    """
    if align(second, first).is_within:
        return second
    return first if align(first, second).is_within else second


# ------------------------------------------------------------------------------------------------------------- geometry


def _turned(image: VolumeHeader, label: VolumeHeader) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """The label's axes brought nearest to the image's: nibabel's orientation, the new shape and the new affine."""
    turn = orientations.io_orientation(np.linalg.solve(image.affine, label.affine))
    order = np.argsort(turn[:, 0])
    shape = tuple(label.shape[axis] for axis in order)
    return turn, shape, label.affine @ orientations.inv_ornt_aff(turn, label.shape)


def _alignment(image: VolumeHeader, label: VolumeHeader) -> Alignment | None:
    """None where the voxels of the label are no voxels of the image's lattice."""
    turn, shape, affine = _turned(image, label)
    start = np.rint(np.linalg.solve(image.affine, affine)[:3, 3])
    if np.abs(start).max() > 1e6:
        return None
    on_lattice = image.affine.copy()
    on_lattice[:3, 3] += image.affine[:3, :3] @ start
    apart = _distance(shape, on_lattice, affine)
    if apart > ALIGNMENT_TOLERANCE * min(image.spacing):
        return None
    x, y, z = (int(first) for first in start)
    return Alignment(turn, (x, y, z), (shape[0], shape[1], shape[2]), image.shape, label, image)


def _states_its_place(found: Alignment) -> bool:
    """Whether a label of another extent was cropped or padded on purpose, rather than made for another scan.

    Without a word of it in the header, one that begins at the image's own first voxel and ends elsewhere rather lacks
    slices, and one that lies partly outside its image rather has a wrong origin.
    """
    sides = list(zip(found.start, found.turned_shape, found.shape, strict=True))
    if found.source.is_cropped:
        return all(first < side and first + length > 0 for first, length, side in sides)
    is_around = all(first <= 0 and first + length >= side for first, length, side in sides)
    return found.start != (0, 0, 0) and (found.is_within or is_around)


def _distance(shape: tuple[int, ...], first: np.ndarray, second: np.ndarray) -> float:
    """Millimetres between the places that two affines give the corners of an array, at most."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, length - 1) for length in shape))])
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())


# ----------------------------------------------------------------------------------- headers that contradict themselves


def _contradiction(image: VolumeHeader, label: VolumeHeader) -> str | None:
    """The end of the sentence where the two fit once another statement of a NIfTI header is believed."""
    for culprit, one, other in _other_readings(image, label):
        found = _alignment(one, other)
        if found is None or not found.is_whole:
            continue
        phrase = next(iter(culprit.other_affines))
        exact = " voxel for voxel" if np.array_equal(found.turn, [[0, 1], [1, 1], [2, 1]]) else ""
        return (
            f"{culprit.path.name} {culprit.contradiction}, and the two fit{exact} by {phrase}. Do not resample; store "
            "one geometry in the image, as sform and qform with codes above 0, and copy its header to the label."
        )
    return None


def _other_readings(
    image: VolumeHeader, label: VolumeHeader
) -> Iterator[tuple[VolumeHeader, VolumeHeader, VolumeHeader]]:
    """(whose header is contradictory, the image, the label) for every other geometry that their headers state."""
    others = {
        id(header): [VolumeHeader(header.path, header.shape, affine) for affine in header.other_affines.values()]
        for header in (image, label)
    }
    yield from ((image, other, label) for other in others[id(image)])
    yield from ((label, image, other) for other in others[id(label)])
    yield from ((image, *pair) for pair in itertools.product(others[id(image)], others[id(label)]))
