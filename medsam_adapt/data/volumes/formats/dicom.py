"""DICOM: a folder that holds the files of one series is a volume.

Files are told by their content, never by their names, and what is no slice (reports, segmentations, a DICOMDIR,
colour pictures, images without a place in the patient) is passed over. Nothing that a file says of its patient reaches
a sentence, identifiers included: a series is named by its number, and a file by its place among the folder's names,
which often are identifiers themselves. The errors of pydicom quote values and are not passed on for that reason.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.formats.base import VolumeFormat, VolumeHeader, plain_label_header
from medsam_adapt.data.volumes.formats.dicom_geometry import stack_slices
from medsam_adapt.data.volumes.formats.dicom_headers import Slice, damage, is_dicom, quiet_dicom, read_slices
from medsam_adapt.data.volumes.formats.dicom_pixels import read_pixels

_SCOUT_SLICES = 2  # a series of no more slices is a scout where there is another


@dataclass(frozen=True, eq=False)
class SeriesHeader(VolumeHeader):
    """Geometry of a DICOM series, and its slices in the order of the array's third axis."""

    slices: tuple[Slice, ...] = ()

    def __repr__(self) -> str:
        return f"SeriesHeader({self.path}, {self.shape})"  # the slices' fields hold identifiers


def holds_dicom(folder: Path) -> bool:
    """Whether a folder has a DICOM file directly in it; opens as many files as it takes to find one."""
    return folder.is_dir() and any(is_dicom(path) for path in _visible_files(folder))


def patient_key(folder: Path) -> str | None:
    """A digest that all series of one patient share, to compare and never to show; None where no patient is told."""
    import pydicom

    for path in _visible_files(folder):
        if not is_dicom(path):
            continue
        with quiet_dicom():
            try:
                dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=["PatientID"])
                identifier = str(dataset.get("PatientID") or "").strip()
            except damage():
                return None  # whoever reads the series tells
        return hashlib.sha256(identifier.encode()).hexdigest() if identifier else None
    return None


def read_series_header(folder: Path, series: int | str | None = None) -> SeriesHeader:
    """The geometry of the one series in ``folder``, or of that which ``series`` names.

    Scouts of one or two slices are passed over where there is exactly one other series.

    Args:
        folder: of the files.
        series: a series' number, its UID (SeriesInstanceUID) or its description, where the folder holds several; upper
            and lower case of a description are equal.

    Raises:
        InputError: damaged files, no series, several series, slices that make no even stack (missing, repeated,
            tilted, of different orientation or size), or voxels that are more than the files can hold.
    """
    chosen = _choose(folder, _series_in(folder), series)
    ordered, affine = stack_slices(folder, chosen)
    return SeriesHeader(folder, (ordered[0].columns, ordered[0].rows, len(ordered)), affine, tuple(ordered))


def holds_series(folder: Path, series: int | str) -> bool:
    """Whether a folder holds the series that ``series`` names, as `read_series_header` takes it.

    Raises:
        InputError: damaged files.
    """
    return bool(_named(_series_in(folder), series))


def _series_in(folder: Path) -> list[list[Slice]]:
    by_series: dict[str, list[Slice]] = {}
    for item in read_slices(folder, _visible_files(folder)):
        by_series.setdefault(item.series_uid, []).append(item)
    return list(by_series.values())


def _visible_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def _choose(folder: Path, found: list[list[Slice]], wanted: int | str | None) -> list[Slice]:
    if not found:
        raise InputError(
            f"{folder} holds DICOM files, but no slice with a position in the patient; give the folder of a CT or MR "
            "series"
        )
    if wanted is not None:
        candidates = _named(found, wanted)
        if not candidates:
            raise InputError(f"{folder} has no series {wanted}; it has {_listed(found)}, so choose one of these")
    else:
        candidates = [slices for slices in found if not _is_scout(slices)] or found
    if len(candidates) > 1:
        raise InputError(
            f"{folder} holds {len(candidates)} series: {_listed(candidates)}; choose one with --series and its number, "
            "its UID or its description (to train, copy the data with 'medsam-adapt data convert --series' first), or "
            "put each in a folder of its own"
        )
    return candidates[0]


def _named(found: list[list[Slice]], wanted: int | str) -> list[list[Slice]]:
    """The series of a UID, of a number, or of a description, whichever there is first in this order."""
    text = str(wanted).strip()
    by_uid = [slices for slices in found if slices[0].series_uid == text]
    by_number = [slices for slices in found if str(slices[0].series_number) == text]
    by_description = [
        slices for slices in found if slices[0].series_description.strip().casefold() == text.casefold() != ""
    ]
    return by_uid or by_number or by_description


def _is_scout(slices: list[Slice]) -> bool:
    return len(slices) <= _SCOUT_SLICES or all(item.localizer for item in slices)


def _listed(found: list[list[Slice]]) -> str:
    names = []
    for slices in sorted(found, key=lambda slices: (slices[0].series_number or 0, len(slices))):
        first, count = slices[0], len(slices)
        name = "one without a number" if first.series_number is None else f"series {first.series_number}"
        names.append(f"{name} ({first.modality}, {count} slice{'s' * (count > 1)})")
    return ", ".join(names)


def _read_voxels(header: SeriesHeader) -> tuple[np.ndarray, float, float]:
    """(X, Y, Z) voxels as stored where one rescaling holds for all slices, otherwise rescaled to float32."""
    columns, rows, count = header.shape
    rescalings = {(item.slope, item.intercept) for item in header.slices}
    dtype = np.result_type(*{item.dtype for item in header.slices}) if len(rescalings) == 1 else np.dtype(np.float32)
    volume = np.empty((count, rows, columns), dtype=dtype)
    for index, pixels in read_pixels(header.path, header.slices):
        item = header.slices[index]
        if len(rescalings) == 1:
            volume[index] = pixels
        else:
            volume[index] = pixels.astype(np.float64) * item.slope + item.intercept
    slope, intercept = rescalings.pop() if len(rescalings) == 1 else (1.0, 0.0)
    return volume.transpose(2, 1, 0), slope, intercept


DICOM = VolumeFormat(read_series_header, _read_voxels, plain_label_header)
