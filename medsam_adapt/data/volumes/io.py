"""Volumes on disk: a header is checked before any voxel is read, and a label is written with its image's geometry.

A volume is a file whose suffix is in `FORMATS`, a folder that holds a DICOM series, or the images of a case together
(`image_set`). Whatever is wrong with it ends in an `InputError` that names it and the fix. The checks of values (finite
images, whole-numbered labels) are the same for every format.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole
from medsam_adapt.core.gzip_files import gzip_compressed
from medsam_adapt.core.lazy import lazy_module
from medsam_adapt.data.volumes.dicom_labels import read_dicom_labels
from medsam_adapt.data.volumes.files import (
    FORMATS,
    LARGEST_LABEL,
    PICTURES,
    case_stem,
    is_slicer_label,
    picture_files,
    read_voxels,
    volume_files,
    volume_stem,
    without_label_ending,
)
from medsam_adapt.data.volumes.formats.base import VolumeFormat, VolumeHeader
from medsam_adapt.data.volumes.formats.dicom import SeriesHeader
from medsam_adapt.data.volumes.formats.dicom_suv import suv_factor
from medsam_adapt.data.volumes.headers import format_of, label_header_of, read_header, stored_label_header
from medsam_adapt.data.volumes.image_set import ImageSet, ImageSetHeader, read_set_voxels
from medsam_adapt.data.volumes.label_numbers import read_label_map
from medsam_adapt.data.volumes.same_grid import align

if TYPE_CHECKING:
    from nibabel import orientations
else:
    orientations = lazy_module("nibabel.orientations")

__all__ = [
    "FORMATS",
    "LARGEST_LABEL",
    "PICTURES",
    "VolumeFormat",
    "VolumeHeader",
    "case_stem",
    "from_ras",
    "is_slicer_label",
    "picture_files",
    "read_header",
    "read_label",
    "read_volume",
    "stored_label_header",
    "to_ras",
    "volume_files",
    "volume_stem",
    "without_label_ending",
    "write_label",
    "write_volume",
]


def read_volume(
    path: str | Path | ImageSet | Sequence[str | Path], series: int | str | None = None, suv: Sequence[bool] = ()
) -> tuple[np.ndarray, VolumeHeader]:
    """An image: (X, Y, Z) float32 voxels in the file's own axis order, rescaled by its header, and its header.

    A picture in colour gives (X, Y, 1, 3), and the images of a case (X, Y, Z, images), NaN where one is missing.

    Args:
        path: a file, or a folder that holds a DICOM series (X along its rows, Z along the normal of its slices); or
            the images of a case, a set or a list of paths.
        series: the DICOM series' number, UID or description, where the folder holds several.
        suv: of each image, whether a PET series is wanted as SUV by body weight (`dicom_suv`); a volume of another
            format, or of another modality, stays as it is.

    Raises:
        InputError: as `read_header`; also damaged voxel data, NaN or infinite voxels, and a PET series without what
            its SUV is computed from.
    """
    header = read_header(path, series)
    if isinstance(header, ImageSetHeader):
        return read_set_voxels(header, suv), header
    if header.layers > 1:
        raise InputError(
            f"{header.path}: it is a segmentation in layers, not an image. Give the image that it belongs to."
        )
    factor = suv_factor(header) if any(suv) and isinstance(header, SeriesHeader) and header.modality == "PT" else 1.0
    voxels = read_voxels(header, format_of(header.path))
    if factor != 1:
        voxels *= np.float32(factor)
    return voxels, header


def read_label(
    path: str | Path, like: str | Path | ImageSet | VolumeHeader | None = None
) -> tuple[np.ndarray, VolumeHeader]:
    """A label map: (X, Y, Z) uint8, or uint16 where a label is above 255, and its header; 0 is background.

    Args:
        path: a volume; or, where ``like`` is given, also a DICOM segmentation or structure set (.dcm).
        like: the image, or its header, on whose grid the label is wanted: a DICOM label is drawn there, and another
            one is turned to the image's axis order, or placed where it covers a part of it (`align`).

    Raises:
        InputError: as `read_header`; also damaged voxel data, values that are not whole numbers from 0 to 65535,
            a DICOM label whose structures overlap, and a label that does not fit the grid of ``like``.
    """
    if like is not None and not isinstance(like, VolumeHeader):
        like = read_header(like)
    if like is not None and Path(path).name.lower().endswith(".dcm"):
        return _read_dicom_label(Path(path), like)
    header = read_header(path)
    label = read_label_map(header)
    if like is None:
        return label, header
    return align(like, header).place(label), VolumeHeader(header.path, like.shape, like.affine)


def _read_dicom_label(path: Path, like: VolumeHeader) -> tuple[np.ndarray, VolumeHeader]:
    label, _ = read_dicom_labels(path, like)
    if isinstance(label, dict):
        raise InputError(
            f"{path}: it has structures that overlap, which a label map cannot hold. Export each as a separate mask."
        )
    return label, VolumeHeader(path, like.shape, like.affine)


def write_label(path: str | Path, label: np.ndarray, like: str | Path | VolumeHeader, slope: float = 1.0) -> None:
    """Write a label map as .nii.gz, whole or not at all, on the grid of the image ``like``.

    Over a NIfTI image the sform, qform, their codes, the spacing and the units are the image's own, bit for bit; over
    one of another format, sform and qform are its affine, in mm. Free text and header extensions are left behind: they
    may name the patient.

    Args:
        path: ends in .nii.gz.
        label: (X, Y, Z) whole numbers from 0 to 65535 in the image's own axis order.
        like: the image's file, or its header (whose file is read again).
        slope: what readers multiply the stored numbers by, for a map that is no label, such as a probability.

    Raises:
        InputError: the file cannot be written.
        ValueError: the label does not fit the image or the type.
    """
    path, like = Path(path), like if isinstance(like, VolumeHeader) else read_header(like)
    if label.shape != like.shape:
        raise ValueError(f"the label's shape {label.shape} is not the image's {like.shape}")
    if not path.name.endswith(".nii.gz"):
        raise InputError(f"{path}: labels are written as .nii.gz. Name a file that ends in .nii.gz.")
    largest = label.max()
    if largest > LARGEST_LABEL or (label.dtype.kind not in "ub" and label.min() < 0):
        raise ValueError(f"labels go from 0 to {LARGEST_LABEL}, got {label.min()} to {largest}")
    _write_nifti(path, label, np.dtype(np.uint8 if largest <= 255 else np.uint16), like, slope)


def write_volume(path: str | Path, voxels: np.ndarray, like: VolumeHeader) -> None:
    """Write an image as .nii.gz on the grid of ``like``, without free text, as `write_label` does.

    Whole numbers that fit are stored as int16 and all others as float32, so that `read_volume` gives the same back.

    Args:
        path: ends in .nii.gz.
        voxels: (X, Y, Z) float32 in the axis order of ``like``.
        like: the header of the image's own file.

    Raises:
        InputError: the file cannot be written.
    """
    whole = np.array_equal(voxels, voxels.astype(np.int16)) if np.abs(voxels).max() < 1 << 15 else False
    _write_nifti(Path(path), voxels, np.dtype(np.int16 if whole else np.float32), like)


def _write_nifti(path: Path, voxels: np.ndarray, dtype: np.dtype, like: VolumeHeader, slope: float = 1.0) -> None:
    header = label_header_of(like)
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(dtype)
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = slope, 0
    for name in ("cal_min", "cal_max", "intent_code", "intent_p1", "intent_p2", "intent_p3"):
        header[name] = 0
    for name in {"intent_name", "descrip", "aux_file", "db_name", "data_type"} & set(header.keys()):
        header[name] = b""
    block, offset = header.binaryblock, header.single_vox_offset
    content = np.zeros(offset + voxels.size * dtype.itemsize, np.uint8)
    content[: len(block)] = np.frombuffer(block, np.uint8)
    # Voxels are converted and put in order at once: each copy of a large volume takes a noticeable time.
    content[offset:].view(header.get_data_dtype()).reshape(voxels.shape, order="F")[...] = voxels
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(gzip_compressed(content))
    except OSError as error:
        raise InputError(
            f"{path}: it cannot be written ({error.strerror}). Choose another folder or free some space."
        ) from error


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A view of (X, Y, Z) ``array`` with its axes permuted and flipped nearest to RAS, and the affine of that view."""
    orientation = orientations.io_orientation(affine)
    turned = orientations.apply_orientation(array, orientation)
    return turned, affine @ orientations.inv_ornt_aff(orientation, array.shape)


def from_ras(array_ras: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A view of ``array_ras`` in the axis order of the volume whose own ``affine`` is given: undoes `to_ras`."""
    back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.io_orientation(affine))
    return orientations.apply_orientation(array_ras, back)
