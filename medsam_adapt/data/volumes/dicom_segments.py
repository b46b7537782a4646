"""The segments of a DICOM segmentation (SEG), read by highdicom, on the grid of an image."""

from __future__ import annotations

import itertools
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.formats.base import LPS_TO_RAS, VolumeHeader
from medsam_adapt.data.volumes.formats.dicom_headers import damage, quiet_dicom

_OFF_GRID = 0.1  # voxels


def require_highdicom() -> Any:
    """The module highdicom.

    Raises:
        InputError: it is not installed.
    """
    try:
        import highdicom
    except ModuleNotFoundError as error:
        raise InputError(
            "highdicom: DICOM segmentations need this package, which is not installed. Run pip install "
            "'medsam-adapt[dicom]'."
        ) from error
    return highdicom


def segment_mask(path: Path, dataset: Any, number: int, header: VolumeHeader) -> np.ndarray:
    """(X, Y, Z) bool: the voxels of one segment; of a fractional one, what is at least half.

    Raises:
        InputError: frames that are damaged or make no stack, lie on another grid than the image, or outside it.
    """
    try:
        with quiet_dicom():
            volume = dataset.get_volume(segment_numbers=[number], combine_segments=False)
    except damage(RuntimeError, sqlite3.Error):  # highdicom asks a small data base about the frames
        raise InputError(
            f"{path}: segment {number} has frames that are damaged or make no even stack. Export it again from its "
            "source."
        ) from None
    return _placed(path, volume.array[..., 0] >= 0.5, LPS_TO_RAS @ volume.affine, header)


def _placed(path: Path, mask: np.ndarray, affine: np.ndarray, header: VolumeHeader) -> np.ndarray:
    """A mask of whatever orientation and extent on the grid of the image, without resampling."""
    to_image = np.linalg.solve(header.affine, affine)
    axes = np.abs(to_image[:3, :3]).argmax(axis=0)  # the image's axis along which each of the mask's runs
    corners = np.array(list(itertools.product(*((0, length - 1) for length in mask.shape))))
    steps, start = np.rint(to_image[axes, range(3)]), np.rint(to_image[:3, 3])
    rounded = np.zeros((3, 3))
    rounded[axes, range(3)] = steps
    off = corners @ (to_image[:3, :3] - rounded).T + to_image[:3, 3] - start
    if len({*axes.tolist()}) < 3 or np.abs(off).max() > _OFF_GRID:
        raise InputError(
            f"{path}: it lies on another grid than its image {header.path.name}. Resample it onto the image with "
            "nearest neighbour and save it as NIfTI."
        )
    places = [start[axes[i]] + steps[i] * np.arange(mask.shape[i]) for i in range(3)]
    inside = [(place >= 0) & (place < header.shape[axis]) for place, axis in zip(places, axes, strict=True)]
    cropped = mask[np.ix_(*inside)]
    if np.count_nonzero(cropped) < np.count_nonzero(mask):
        raise InputError(
            f"{path}: it reaches beyond its image {header.path.name}. Give the label that belongs to the image."
        )
    order = np.argsort(axes)
    whole = np.zeros(header.shape, dtype=bool)
    kept = [place[keep].astype(int) for place, keep in zip(places, inside, strict=True)]
    whole[np.ix_(*(kept[i] for i in order))] = cropped.transpose(order)
    return whole
