"""From the slices of a DICOM series to an even stack: sorted by position, and refused where they make none.

Places along the stack are given in mm along the normal of the slices, which for axial slices is the z of the scanner.
The tolerances leave room for what scanners write: positions rounded to a tenth of a millimetre, direction cosines with
six digits or fewer, tables that move unevenly by a little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted
from medsam_adapt.data.volumes.formats.base import LPS_TO_RAS
from medsam_adapt.data.volumes.formats.dicom_headers import Slice, series_name

_SAME_DIRECTION = 1e-3  # of a unit vector: 0.06 degrees
_SAME_SPACING = 1e-3  # relative
_SAME_PLACE = 0.01  # of the distance between slices
_MISSING = 1.5  # a distance this many times the usual one has room for another slice
_UNEVEN = 0.1  # of the distance between slices
_ROUNDED = 0.051  # mm, of positions that are written with one decimal
_SIDEWAYS = 0.5  # pixels
_ANOTHER_DIRECTION = 0.1  # of a unit vector: 6 degrees
_MOST_SCOUTS = 3  # images of other orientations within a series: a scout has one, two or three


def stack_slices(folder: Path, slices: Sequence[Slice]) -> tuple[list[Slice], np.ndarray, list[str]]:
    """The slices in the order of their positions along their normal, the (4, 4) affine to RAS mm, and notes.

    Voxel (i, j, k) is column i, row j of slice k. Up to three images of another orientation or size are scouts, and
    left out with a note, if the others make a stack.

    Raises:
        InputError: slices of different size, spacing or orientation, two at one place, missing ones, uneven
            distances, or a stack that leans (gantry tilt).
    """
    kept = _without_scouts(slices)
    count = len(slices) - len(kept)
    if 0 < count <= min(_MOST_SCOUTS, len(kept) // 2):
        note = (
            f"{folder}: {series_name(slices[0].series_number)} has {counted(count, 'image')} of another "
            "orientation or size beside its slices, left out as a scout."
        )
        with suppress(InputError):  # they are not beside a stack: then what is wrong with all of them is reported
            return *_stacked(folder, kept), [note]
    return *_stacked(folder, slices), []


def _without_scouts(slices: Sequence[Slice]) -> list[Slice]:
    """The slices of the most frequent size and of about the most frequent orientation."""
    kinds = Counter((item.rows, item.columns, tuple(np.round(item.orientation, 3).tolist())) for item in slices)
    (rows, columns, orientation), _ = kinds.most_common(1)[0]
    return [
        item
        for item in slices
        if (item.rows, item.columns) == (rows, columns)
        and np.abs(np.subtract(item.orientation, orientation)).max() < _ANOTHER_DIRECTION
    ]


def _stacked(folder: Path, slices: Sequence[Slice]) -> tuple[list[Slice], np.ndarray]:
    _check_alike(folder, slices)
    axes = np.reshape(slices[0].orientation, (2, 3))
    along_row, along_column = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    normal = np.cross(along_row, along_column)
    positions = np.array([item.position for item in slices])
    order = np.argsort(positions @ normal, kind="stable")
    ordered, positions = [slices[index] for index in order], positions[order]
    if len(ordered) > 1:
        _check_distances(folder, positions @ normal)
        _check_upright(folder, positions, normal, min(slices[0].pixel_spacing))
        step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    elif ordered[0].step:
        step = normal * ordered[0].step
    else:
        raise InputError(f"{folder}: it holds a single slice of unknown thickness. Give the folder of a whole series.")
    between_rows, between_columns = slices[0].pixel_spacing
    affine = np.eye(4)
    affine[:3] = np.stack([along_row * between_columns, along_column * between_rows, step, positions[0]], axis=1)
    affine = LPS_TO_RAS @ affine
    affine.setflags(write=False)
    return ordered, affine


def _check_alike(folder: Path, slices: Sequence[Slice]) -> None:
    fix = "Put each kind into a separate folder."
    sizes = sorted({(item.columns, item.rows) for item in slices})
    if len(sizes) > 1:
        listed = " and ".join(f"{columns} × {rows}" for columns, rows in sizes[:3])
        raise InputError(f"{folder}: it mixes slices of {listed} pixels in one series. {fix}")
    spacings = np.array([item.pixel_spacing for item in slices])
    if np.ptp(spacings, axis=0).max() > _SAME_SPACING * spacings.min():
        raise InputError(
            f"{folder}: it mixes pixel spacings from {spacings.min():g} to {spacings.max():g} mm in one series. {fix}"
        )
    directions = np.array([item.orientation for item in slices]).reshape(-1, 2, 3)
    perpendicular = np.abs(np.einsum("nij,nkj->nik", directions, directions) - np.eye(2)).max()
    if perpendicular > 10 * _SAME_DIRECTION:
        raise InputError(f"{folder}: it has an orientation that no slice can have. Export the series again.")
    if np.abs(directions - directions[0]).max() > _SAME_DIRECTION:
        normals = np.cross(directions[:, 0], directions[:, 1])
        angle = np.degrees(np.arccos(np.clip(normals @ normals[0], -1, 1))).max()
        raise InputError(
            f"{folder}: it mixes slices of different orientations in one series (up to {angle:.3g}° apart). {fix}"
        )


def _check_distances(folder: Path, places: np.ndarray) -> None:
    """Refuse repeated, missing and uneven slices; ``places`` in mm along the normal, ascending."""
    distances = np.diff(places)
    apart = distances[distances > 1e-4]
    usual = float(np.quantile(apart, 0.25, method="lower")) if apart.size else 0.0  # also where many are missing
    twice = np.flatnonzero(distances <= _SAME_PLACE * usual)
    if twice.size:
        others = f" and at {counted(twice.size - 1, 'more place')}" if twice.size > 1 else ""
        raise InputError(
            f"{folder}: it has several slices at {places[twice[0]]:g} mm{others}: phases, echoes, time points or "
            "another export within one series. Put each volume into a separate folder."
        )
    gaps = np.flatnonzero(distances > _MISSING * usual)
    if gaps.size:
        first = gaps[0]
        missing = round(distances[first] / usual) - 1
        others = f", and {counted(gaps.size - 1, 'more gap')}" if gaps.size > 1 else ""
        raise InputError(
            f"{folder}: it misses {counted(missing, 'slice')} between {places[first]:g} and "
            f"{places[first + 1]:g} mm{others} (slices are {usual:g} mm apart). Export the whole series again."
        )
    even = np.linspace(places[0], places[-1], len(places))
    if np.abs(places - even).max() > max(_UNEVEN * usual, _ROUNDED):
        raise InputError(
            f"{folder}: it has slices at uneven distances, from {distances.min():.4g} to {distances.max():.4g} mm. "
            "Export it with even spacing, or resample it with dcm2niix."
        )


def _check_upright(folder: Path, positions: np.ndarray, normal: np.ndarray, pixel: float) -> None:
    """Refuse a stack that leans, or whose slices lie shifted against each other, by more than half a pixel."""
    aside = positions - positions[0]
    aside = aside - np.outer(aside @ normal, normal)
    if np.linalg.norm(aside, axis=1).max() <= _SIDEWAYS * pixel:
        return
    whole = positions[-1] - positions[0]
    angle = np.degrees(np.arctan2(np.linalg.norm(aside[-1]), abs(whole @ normal)))
    raise InputError(
        f"{folder}: it is a tilted stack: its slices are shifted sideways by up to "
        f"{np.linalg.norm(aside, axis=1).max():.3g} mm, {angle:.2g}° from their normal (possibly gantry tilt). "
        "Straighten it first, with dcm2niix for instance."
    )
