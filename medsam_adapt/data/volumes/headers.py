"""The geometry of volumes: of files, of folders that hold a DICOM series, and of the images of a case together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.files import file_format
from medsam_adapt.data.volumes.formats.base import VolumeFormat, VolumeHeader
from medsam_adapt.data.volumes.formats.dicom import DICOM, holds_dicom, read_series_header
from medsam_adapt.data.volumes.image_set import (
    ImageSet,
    ImageSetHeader,
    as_source,
    read_set_header,
    set_label_header,
)

if TYPE_CHECKING:
    import nibabel as nib


def read_header(path: str | Path | ImageSet | Sequence[str | Path], series: int | str | None = None) -> VolumeHeader:
    """Geometry of a volume, its files checked as far as that goes without decompressing them.

    Args:
        path: a file, or a folder that holds a DICOM series; or the images of a case, a set or a list of paths.
        series: the DICOM series' number, UID or description, where the folder holds several.

    Raises:
        InputError: no such file, an empty, truncated or corrupt one, a format that is not supported, not 3D (a
            trailing axis of length 1 is dropped), a geometry that cannot be, a DICOM folder without one whole,
            evenly spaced series, or images of a case that lie elsewhere.
    """
    source = as_source(path)
    if isinstance(source, ImageSet):
        return read_set_header(source)
    chosen = format_of(source)
    if chosen is DICOM:
        return read_series_header(source, series)
    if series is not None:
        raise InputError(f"{source}: it has no DICOM series to choose from. Name a series for a DICOM folder only.")
    return chosen.read_header(source)


def label_header_of(header: VolumeHeader) -> nib.Nifti1Header:
    """The NIfTI header that a label on the grid of a volume starts from."""
    if isinstance(header, ImageSetHeader):
        return set_label_header(header)
    return format_of(header.path).label_header(header)


def stored_label_header(path: Path) -> nib.Nifti1Header:
    """The NIfTI header that a label on the grid of this volume starts from."""
    return label_header_of(read_header(path))


def format_of(path: Path) -> VolumeFormat:
    """The format of a volume, a file or a folder.

    Raises:
        InputError: no such volume, or one of no supported format.
    """
    if not path.is_dir():
        return file_format(path)
    if holds_dicom(path):
        return DICOM
    raise InputError(
        f"{path}: this folder has no DICOM files. Give the file of a volume, or the folder that holds the DICOM files."
    )
