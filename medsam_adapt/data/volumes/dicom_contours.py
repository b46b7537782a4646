"""The contours of a DICOM structure set (RTSTRUCT), sorted by structure and by slice of the image, and their masks.

A fault of one structure is noted for that structure alone, since most structure sets hold many that nobody trains on.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.core.text import counted
from medsam_adapt.data.volumes.contour_fill import Contour, fill, is_doubled
from medsam_adapt.data.volumes.formats.base import LPS_TO_RAS, VolumeHeader
from medsam_adapt.data.volumes.formats.dicom_headers import damage
from medsam_adapt.data.volumes.image_set import reference_series

if TYPE_CHECKING:
    from pydicom import Dataset

_BETWEEN_SLICES = 0.3  # of the distance between slices
_EDGE = 0.51  # pixels from the centre of an outermost pixel to the edge of the image
_LINES = ("POINT", "OPENPLANAR", "OPENNONPLANAR")  # they enclose no area
_CLOSED = ("CLOSEDPLANAR", "CLOSEDPLANARXOR", "INTERPOLATEDPLANAR")  # the last one is OsiriX's


@dataclass
class Structure:
    """The contours of one structure.

    Attributes:
        slices: (axis across the contours' plane, index along it) -> contours on that slice.
        problem: what makes the structure unusable, as the second half of a sentence; empty where nothing does.
        notes: what was left out or cut off, likewise.
        outside: whether it has contours, all of which lie outside the image.
    """

    slices: dict[tuple[int, int], list[Contour]] = field(default_factory=lambda: defaultdict(list))
    problem: str = ""
    notes: list[str] = field(default_factory=list)
    outside: bool = False

    def mask(self, shape: tuple[int, int, int]) -> np.ndarray:
        """(X, Y, Z) bool: the voxels that belong to the structure."""
        mask = np.zeros(shape, dtype=bool)
        doubled = bool(self.slices) and all(is_doubled(contours) for contours in self.slices.values())
        for (across, index), contours in self.slices.items():
            np.moveaxis(mask, across, 0)[index] |= fill(contours, doubled)
        return mask


@dataclass
class _Read:
    """What the file holds for one structure: (type of contour, (N, 3) points in DICOM's mm)."""

    contours: list[tuple[str, np.ndarray]] = field(default_factory=list)
    without_points: int = 0
    damaged: bool = False


def read_structures(
    dataset: Dataset, numbers: Mapping[int, int], header: VolumeHeader, frames: set[str]
) -> tuple[dict[int, Structure], list[str]]:
    """The structures of a structure set, and notes about the file as a whole.

    Args:
        dataset: the structure set.
        numbers: ROINumber -> the number that the structure goes by.
        header: of the image.
        frames: frames of reference of the image, identifiers to compare; none where they are not known.
    """
    read, orphans = _read_contours(dataset, numbers)
    default = _usual_axis(read, header)
    found = {number: _placed(read[number], header, default) for number in read}
    for item in dataset.StructureSetROISequence:
        frame, number = str(item.get("ReferencedFrameOfReferenceUID") or ""), numbers.get(_number(item, "ROINumber"))
        if frame and frames and frame not in frames and number is not None and read[number].contours:
            found[
                number
            ].problem = (
                "was drawn on another series (another frame of reference). Give the structure set of this series"
            )
    drawn = [structure for structure in found.values() if structure.slices or structure.outside]
    if drawn and all(structure.outside for structure in drawn):  # the set of another patient or body part
        for structure in drawn:
            structure.problem = structure.problem or (
                f"reaches beyond its image {header.path.name}. Give the label that belongs to the image"
            )
    return found, [f"has contours of {counted(orphans, 'structure')} without a name, left out"] if orphans else []


def _number(item: Dataset, name: str) -> int:
    return int(item.get(name) or 0)


def _read_contours(dataset: Dataset, numbers: Mapping[int, int]) -> tuple[dict[int, _Read], int]:
    """The contours by structure, and how many items refer to no structure."""
    read = {number: _Read() for number in numbers.values()}
    orphans = 0
    for item in dataset.get("ROIContourSequence") or ():
        number = numbers.get(_number(item, "ReferencedROINumber"))
        if number is None:
            orphans += bool(item.get("ContourSequence"))
            continue
        for contour in item.get("ContourSequence") or ():
            try:
                points = _points(contour)
            except damage():
                read[number].damaged = True
                continue
            if len(points) == 0:
                read[number].without_points += 1
            else:
                kind = re.sub("[^A-Z]", "", str(contour.get("ContourGeometricType") or "").upper())
                read[number].contours.append((kind, points))
    return read, orphans


def _points(contour: Dataset) -> np.ndarray:
    """(N, 3) points of a contour; the bytes are parsed at once, since pydicom makes an object of each number."""
    element = contour.get_item("ContourData")
    value = None if element is None else element.value
    if isinstance(value, bytes):
        value = text.split("\\") if (text := value.decode("ascii").strip(" \0")) else []
    parts = [] if value is None else [value] if isinstance(value, int | float) else value
    points = np.array([float(part) for part in parts]).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise ValueError("coordinates")
    return points


def _to_voxels(points: np.ndarray, header: VolumeHeader) -> np.ndarray:
    to_voxels = np.linalg.inv(header.affine) @ LPS_TO_RAS
    return points @ to_voxels[:3, :3].T + to_voxels[:3, 3]


def _flat_axes(voxels: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.ptp(voxels, axis=0) <= 2 * _BETWEEN_SLICES)


def _usual_axis(read: Mapping[int, _Read], header: VolumeHeader) -> int:
    """The axis across most contours: single points and lines do not show theirs."""
    counts: Counter[int] = Counter()
    for structure in read.values():
        for _, points in structure.contours:
            axes = _flat_axes(_to_voxels(points, header))
            counts.update(axes.tolist() if len(axes) == 1 else ())
    if counts:
        return counts.most_common(1)[0][0]
    return 2 if reference_series(header) is not None else int(np.abs(header.affine[2, :3]).argmax())


def _placed(read: _Read, header: VolumeHeader, default: int) -> Structure:
    """The contours of one structure on the slices of the image."""
    structure = Structure()
    if read.damaged:
        structure.problem = "has damaged contours. Export the structure set again"
    lines = unknown = beyond = cut = 0
    for kind, points in read.contours:
        if kind in _LINES:
            lines += 1
            continue
        unknown += kind not in _CLOSED
        voxels = _to_voxels(points, header)
        axes = _flat_axes(voxels)
        across = default if default in axes or len(axes) == 0 else int(axes[0])
        place = round(float(np.median(voxels[:, across])))
        if np.abs(voxels[:, across] - place).max() > _BETWEEN_SLICES:
            structure.problem = structure.problem or (
                f"has contours that lie between the slices of {header.path.name} or across them. Give the structure "
                "set that was drawn on these images"
            )
            continue
        shape = tuple(np.delete(header.shape, across).tolist())
        contour = Contour(np.delete(voxels, across, axis=1), shape, kind == "CLOSEDPLANARXOR")
        (low, high), last = contour.bounds, np.array(shape) - 1
        if not 0 <= place < header.shape[across] or (high < -_EDGE).any() or (low > last + _EDGE).any():
            beyond += 1
            continue
        cut += bool((low < -_EDGE).any() or (high > last + _EDGE).any())
        structure.slices[across, place].append(contour)
    structure.outside = beyond > 0 and not structure.slices
    structure.notes += _notes(len(read.contours), lines, unknown, read.without_points)
    if beyond or cut:
        what = "lies outside the image, where it has no voxel" if structure.outside else "is cut off at its edges"
        structure.notes.append(f"reaches beyond the image and {what}")
    return structure


def _notes(count: int, lines: int, unknown: int, without_points: int) -> Iterator[str]:
    if lines:
        yield (
            "has only points or open lines, which enclose no voxel"
            if lines == count
            else f"has {counted(lines, 'point or open line', 'points or open lines')} beside its contours, left out"
        )
    if unknown:
        yield f"has {counted(unknown, 'contour')} of an unknown type, read as closed"
    if without_points:
        yield f"has {counted(without_points, 'contour')} without points, left out"
