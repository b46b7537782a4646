"""What the DICOM formats share: the library that they need, the images that they refer to, and codes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole
from medsam_adapt.data.volumes.formats.dicom import SeriesHeader
from medsam_adapt.data.volumes.formats.dicom_headers import damage, quiet_dicom
from medsam_adapt.data.volumes.io import VolumeHeader
from medsam_adapt.outputs._anatomy import Code

MANUFACTURER = "medsam-adapt"
SERIES_NUMBER = 900  # far from the scanner's own
_MAY_BE_EMPTY = (  # attributes of patient and study that the standard wants there, if only empty
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)


def require_highdicom() -> None:
    """Raise an InputError when highdicom is not installed."""
    if importlib.util.find_spec("highdicom") is None:
        raise InputError(
            "writing DICOM needs highdicom, which is not installed: pip install 'medsam-adapt[dicom]', or choose "
            "another --format."
        )


def series_of(like: VolumeHeader) -> SeriesHeader:
    """The header as that of a DICOM series.

    Raises:
        InputError: the volume was not read from DICOM.
    """
    if not isinstance(like, SeriesHeader):
        raise InputError(f"{like.path} is no DICOM series, to which a DICOM output refers: choose another --format.")
    return like


def source_images(series: SeriesHeader) -> tuple[list[Any], list[int]]:
    """The data sets of a series without their pixels, and which slice (along the array's third axis) each frame is.

    A data set is one slice, or all of them as its frames.
    """
    import pydicom

    paths = dict.fromkeys(item.path for item in series.slices)
    images = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths]
    for image in images:
        for name in _MAY_BE_EMPTY:
            if name not in image:  # as anonymisers leave it
                setattr(image, name, "")
    if len(images) > 1 or series.slices[0].frame_count == 1:
        return images, list(range(len(series.slices)))
    place = {item.frame: index for index, item in enumerate(series.slices)}
    return images, [place[frame] for frame in sorted(place)]


@contextmanager
def refused_if_unusable(series: SeriesHeader) -> Iterator[None]:
    """Errors in the block become a sentence: the series lacks, or misstates, what an object that refers to it repeats.

    Raises:
        InputError: instead of whatever highdicom and pydicom raise, which quote values of the header.
    """
    with quiet_dicom():
        try:
            yield
        except damage(RuntimeError):
            raise InputError(
                f"{series.path} lacks identifiers or other attributes that a DICOM output must repeat, or they are "
                "damaged: export the series again, or choose another --format."
            ) from None


def coded(code: Code) -> Any:
    """A concept as pydicom writes it."""
    from pydicom.sr.coding import Code as DicomCode

    return DicomCode(code.value, "SCT", code.meaning)


def version() -> str:
    """Of this package."""
    return metadata.version("medsam-adapt")


def save(dataset: Any, path: Path) -> None:
    """Write a DICOM file, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with quiet_dicom(), written_whole(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); choose another folder or free some space") from error


def lps_affine(series: SeriesHeader) -> np.ndarray:
    """(4, 4) from voxel index to DICOM's millimetres."""
    return cast("np.ndarray", np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.affine)
