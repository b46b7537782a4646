"""From the slices of a DICOM series to an even stack: sorted by position, and refused where they make none.

Places along the stack are told in mm along the normal of the slices, which for axial slices is the z of the scanner.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.formats.base import LPS_TO_RAS
from medsam_adapt.data.volumes.formats.dicom_headers import Slice

_SAME_DIRECTION = 1e-3  # of a unit vector: 0.06 degrees
_SAME_SPACING = 1e-3  # relative
_SAME_PLACE = 0.01  # of the distance between slices
_MISSING = 1.5  # a distance this many times the usual one has room for another slice
_UNEVEN = 0.1  # of the distance between slices
_SIDEWAYS = 0.5  # pixels


def stack_slices(folder: Path, slices: Sequence[Slice]) -> tuple[list[Slice], np.ndarray]:
    """The slices in the order of their positions along their normal, and the (4, 4) affine to RAS mm.

    Voxel (i, j, k) is column i, row j of slice k.

    Raises:
        InputError: slices of different size, spacing or orientation, two at one place, missing ones, uneven
            distances, or a stack that leans (gantry tilt).
    """
    _check_alike(folder, slices)
    along_row, along_column = np.reshape(slices[0].orientation, (2, 3))
    normal = np.cross(along_row, along_column)
    positions = np.array([item.position for item in slices])
    order = np.argsort(positions @ normal, kind="stable")
    ordered, positions = [slices[index] for index in order], positions[order]
    if len(ordered) > 1:
        _check_distances(folder, positions @ normal)
        _check_upright(folder, positions, normal, min(slices[0].pixel_spacing))
        step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    elif ordered[0].thickness:
        step = normal * ordered[0].thickness
    else:
        raise InputError(f"{folder} holds a single slice of unknown thickness; give the folder of a whole series")
    between_rows, between_columns = slices[0].pixel_spacing
    affine = np.eye(4)
    affine[:3] = np.stack([along_row * between_columns, along_column * between_rows, step, positions[0]], axis=1)
    affine = LPS_TO_RAS @ affine
    affine.setflags(write=False)
    return ordered, affine


def _check_alike(folder: Path, slices: Sequence[Slice]) -> None:
    mend = "put each kind in a folder of its own"
    sizes = sorted({(item.columns, item.rows) for item in slices})
    if len(sizes) > 1:
        listed = " and ".join(f"{columns} × {rows}" for columns, rows in sizes[:3])
        raise InputError(f"{folder} mixes slices of {listed} pixels in one series; {mend}")
    spacings = np.array([item.pixel_spacing for item in slices])
    if np.ptp(spacings, axis=0).max() > _SAME_SPACING * spacings.min():
        raise InputError(
            f"{folder} mixes pixel spacings from {spacings.min():g} to {spacings.max():g} mm in one series; {mend}"
        )
    directions = np.array([item.orientation for item in slices]).reshape(-1, 2, 3)
    perpendicular = np.abs(np.einsum("nij,nkj->nik", directions, directions) - np.eye(2)).max()
    if perpendicular > 10 * _SAME_DIRECTION:
        raise InputError(f"{folder} has an orientation that no slice can have; export the series again")
    if np.abs(directions - directions[0]).max() > _SAME_DIRECTION:
        normals = np.cross(directions[:, 0], directions[:, 1])
        angle = np.degrees(np.arccos(np.clip(normals @ normals[0], -1, 1))).max()
        raise InputError(
            f"{folder} mixes slices of different orientations in one series (up to {angle:.3g}° apart); {mend}"
        )


def _check_distances(folder: Path, places: np.ndarray) -> None:
    """Refuse repeated, missing and uneven slices; ``places`` in mm along the normal, ascending."""
    distances = np.diff(places)
    apart = distances[distances > 1e-4]
    usual = float(np.quantile(apart, 0.25, method="lower")) if apart.size else 0.0  # also where many are missing
    twice = np.flatnonzero(distances <= _SAME_PLACE * usual)
    if twice.size:
        others = f" and at {twice.size - 1} more places" if twice.size > 1 else ""
        raise InputError(
            f"{folder} has several slices at {places[twice[0]]:g} mm{others}: phases, echoes, time points or another "
            "export within one series; put each volume in a folder of its own"
        )
    gaps = np.flatnonzero(distances > _MISSING * usual)
    if gaps.size:
        first = gaps[0]
        missing = round(distances[first] / usual) - 1
        others = f", and {gaps.size - 1} more gap{'s' * (gaps.size > 2)}" if gaps.size > 1 else ""
        raise InputError(
            f"{folder} misses {missing} slice{'s' * (missing > 1)} between {places[first]:g} and "
            f"{places[first + 1]:g} mm{others} (slices are {usual:g} mm apart); export the whole series again"
        )
    even = np.linspace(places[0], places[-1], len(places))
    if np.abs(places - even).max() > _UNEVEN * usual:
        raise InputError(
            f"{folder} has slices at uneven distances, from {distances.min():.4g} to {distances.max():.4g} mm; export "
            "it with even spacing, or resample it with dcm2niix"
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
        f"{folder} is a tilted stack: its slices are shifted sideways by up to "
        f"{np.linalg.norm(aside, axis=1).max():.3g} mm, {angle:.2g}° from their normal (gantry tilt perhaps); "
        "straighten it first, with dcm2niix for instance"
    )
