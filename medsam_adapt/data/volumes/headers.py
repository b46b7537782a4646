"""The geometry of volumes: of files, of folders that hold a DICOM series, and of pairs of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.files import file_format
from medsam_adapt.data.volumes.formats.base import VolumeFormat, VolumeHeader
from medsam_adapt.data.volumes.formats.dicom import DICOM, holds_dicom, read_series_header
from medsam_adapt.data.volumes.image_pair import PAIR, pair_files

if TYPE_CHECKING:
    import nibabel as nib


def read_header(path: str | Path, series: int | str | None = None) -> VolumeHeader:
    """Geometry of a volume, its files checked as far as that goes without decompressing them.

    Args:
        path: a file, or a folder that holds a DICOM series.
        series: the DICOM series' number, UID or description, where the folder holds several.

    Raises:
        InputError: no such file, an empty, truncated or corrupt one, a format that is not supported, not 3D (a
            trailing axis of length 1 is dropped), a geometry that cannot be, or a DICOM folder without one whole,
            evenly spaced series.
    """
    path = Path(path)
    chosen = format_of(path)
    if chosen is DICOM:
        return read_series_header(path, series)
    if series is not None:
        raise InputError(f"{path} has no DICOM series to choose from; name a series for a DICOM folder only")
    return chosen.read_header(path)


def stored_label_header(path: Path) -> nib.Nifti1Header:
    """The NIfTI header that a label on the grid of this volume starts from."""
    header = read_header(path)
    return format_of(path).label_header(header)


def format_of(path: Path) -> VolumeFormat:
    """The format of a volume, a file or a folder.

    Raises:
        InputError: no such volume, or one of no supported format.
    """
    if not path.is_dir():
        return file_format(path)
    if holds_dicom(path):
        return DICOM
    if pair_files(path):
        return PAIR
    raise InputError(
        f"{path} is a folder without DICOM files where a volume is wanted; give the file itself, or the folder that "
        "holds the DICOM files"
    )
