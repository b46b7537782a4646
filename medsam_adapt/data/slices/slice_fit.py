"""Which slices suit the training volumes: their size, whole or in tiles, and of one direction or of three."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

import numpy as np

from medsam_adapt.config import Axis, Knobs
from medsam_adapt.data.slices.geometry import (
    SMALLEST_FITTING,
    SlicePlan,
    acquired_axis,
    fitting_size,
    suit_tiles,
    suits_three_planes,
    volume_to_slices,
)
from medsam_adapt.data.volumes.case import Case
from medsam_adapt.data.volumes.io import VolumeHeader, read_volume, to_ras
from medsam_adapt.data.volumes.label_coding import LabelCoding, read_classes

_VOLUMES, _SLICES = 6, 32  # volumes read, and slices of each, to determine how large structures are


class SliceFit(NamedTuple):
    """What `fit_slices` chooses.

    Attributes:
        axis: slicing direction, the first of three.
        image_size: side in pixels of what the network sees.
        slice_size: side of whole slices where the network sees tiles of them; else None.
        three_planes: whether slices of all directions are learned.
    """

    axis: Axis
    image_size: int
    slice_size: int | None
    three_planes: bool


@dataclass(frozen=True)
class LabelledVolumes:
    """The training volumes.

    Attributes:
        cases: with their label files.
        headers: of their volumes, by case id.
        label_ids: of the classes, in the label files.
        coding: of the label files.
    """

    cases: Sequence[Case]
    headers: Mapping[str, VolumeHeader]
    label_ids: Sequence[int]
    coding: LabelCoding

    def slices(self, axis: Axis, image_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, SlicePlan]]:
        """Labels (N, rows, columns), the table of their parts, and the plan of slices, of some of the volumes."""
        for case in self.cases[:: math.ceil(len(self.cases) / _VOLUMES)]:
            header = self.headers[case.id]
            assert case.label_source is not None, "training cases have labels: find_cases checks it"
            label, table = read_classes(case.label_source, self.label_ids, self.coding, header)
            label, affine = to_ras(label, header.affine)
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            if table is None:
                table = np.eye(len(self.label_ids) + 1, dtype=np.uint8)[:, 1:]
            slices = volume_to_slices(label, axis)
            plan = SlicePlan.of(label.shape, tuple(spacing), axis, image_size)
            yield slices[:: math.ceil(len(slices) / _SLICES)], table, plan

    def axial_slices(self, most: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Voxels (N, rows, columns) and labels of axial slices, and the table of their parts, of ``most`` volumes."""
        some = replace(self, cases=self.cases[:: math.ceil(len(self.cases) / most)])
        for case, (labels, table, _) in zip(some.cases, some.slices("axial", SMALLEST_FITTING), strict=True):
            volume, header = read_volume(case.image)
            slices = volume_to_slices(to_ras(volume, header.affine)[0], "axial")
            yield slices[:: math.ceil(len(slices) / _SLICES)], labels, table


def fit_slices(volumes: LabelledVolumes, knobs: Knobs, image_size: int, fits_size: bool) -> SliceFit:
    """Choose directions, image size and tiles by the training volumes, as far as the settings leave it open.

    Where tiles suit the one direction, the others are left out: a long structure is no longer small on their slices.

    Args:
        volumes: that are trained on.
        knobs: the settings of the run: its ``axis``, ``planes``, ``tiles``, and ``prompt``, which lies on whole slices
            of one direction.
        image_size: side of the square in pixels, kept unless ``fits_size``.
        fits_size: whether the image size follows from the volumes (`fitting_size`).
    """
    headers = [volumes.headers[case.id] for case in volumes.cases]
    first = acquired_axis(headers) if knobs.axis == "auto" else knobs.axis
    three, prompted = knobs.planes == "three", knobs.prompt != "none"

    def size(directions: Sequence[Axis]) -> int:
        return max(fitting_size(headers, each) for each in directions) if fits_size else image_size

    directions: Sequence[Axis] = get_args(Axis) if three else [first]
    whole = size(directions)
    may_tile = fits_size and knobs.tiles == "auto" and not prompted
    if may_tile and all(suit_tiles(volumes.slices(direction, whole), whole) for direction in directions):
        return SliceFit(first, SMALLEST_FITTING, whole, three)
    if knobs.planes == "auto" and not prompted and suits_three_planes(headers):
        return SliceFit(first, size(get_args(Axis)), None, three_planes=True)
    return SliceFit(first, whole, None, three)
