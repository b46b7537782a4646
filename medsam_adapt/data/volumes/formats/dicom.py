"""DICOM: a folder that holds the files of one series is a volume.

Files are recognised by their content, never by their names, and what is no slice (reports, segmentations, a DICOMDIR,
colour pictures, images without a place in the patient) is left out. Nothing that a file holds about its patient reaches
a sentence, identifiers included: a series is named by its number, and a file by its place among the folder's names,
which often are identifiers themselves. The errors of pydicom quote values and are not passed on for that reason.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted
from medsam_adapt.data.volumes.formats.base import VolumeFormat, VolumeHeader, plain_label_header
from medsam_adapt.data.volumes.formats.dicom_acquisitions import refuse_several, split_choice, with_attributes
from medsam_adapt.data.volumes.formats.dicom_geometry import stack_slices
from medsam_adapt.data.volumes.formats.dicom_headers import (
    UNKNOWN_MODALITY,
    Fault,
    Slice,
    damage,
    is_dicom,
    quiet_dicom,
    read_slices,
    series_name,
)
from medsam_adapt.data.volumes.formats.dicom_pixels import read_pixels

_SCOUT_SLICES = 2  # a series of no more slices is a scout where there is another
_AIR = -1000.0  # Hounsfield units


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
    """A digest that all series of one patient share, to compare and never to show; None where no patient is named."""
    import pydicom

    for path in _visible_files(folder):
        if not is_dicom(path):
            continue
        with quiet_dicom():
            try:
                dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=["PatientID"])
                identifier = str(dataset.get("PatientID") or "").strip()
            except damage():
                return None  # whoever reads the series reports it
        return hashlib.sha256(identifier.encode()).hexdigest() if identifier else None
    return None


def read_series_header(folder: Path, series: int | str | None = None) -> SeriesHeader:
    """The geometry of the one series in ``folder``, or of that which ``series`` names.

    Scouts of one or two slices are left out where there is exactly one other series, and so are localizers within a
    series.

    Args:
        folder: of the files.
        series: a series' number, its UID (SeriesInstanceUID) or its description, where the folder holds several; upper
            and lower case of a description are equal. Where one series holds several volumes, attributes choose one:
            "3:EchoTime=30", or "EchoTime=30" of the only series.

    Raises:
        InputError: damaged files, no series, several series, several volumes in the series, slices that make no even
            stack (missing, repeated, tilted, of different orientation or size), or voxels that are more than the files
            can hold.
    """
    found, faults = _series_in(folder)
    chosen, others = _choose(folder, found, faults, series)
    slices, notes = _without_localizers(folder, chosen)
    refuse_several(folder, slices)
    ordered, affine, left_out = stack_slices(folder, slices)
    _check_slopes(folder, ordered)
    notes += [*left_out, *(fault.problem for fault in others)]
    if (spacing := ordered[0].spacing_from) != "PixelSpacing":
        notes.append(f"{folder}: {series_name(ordered[0].series_number)} has no PixelSpacing, {spacing} is used.")
    modality = None if ordered[0].modality == UNKNOWN_MODALITY else ordered[0].modality
    if modality == "MR" and all(_is_adc(item) for item in ordered):
        modality = "ADC"
    shape = (ordered[0].columns, ordered[0].rows, len(ordered))
    kept = tuple(dict.fromkeys(notes))
    return SeriesHeader(folder, shape, affine, tuple(ordered), notes=kept, modality=modality)


def _is_adc(item: Slice) -> bool:
    """Whether a slice is an apparent diffusion coefficient, as a value of its ImageType states it."""
    return "ADC" in re.split(r"[^A-Z0-9]+", item.varying.get("ImageType", "").upper())


def _check_slopes(folder: Path, slices: list[Slice]) -> None:
    """Refuse a slope of 0, but in single slices of a series whose slopes differ: PET has them where all is 0."""
    zero = sum(item.slope == 0 for item in slices)
    if zero == len(slices) or (zero and slices[0].modality == "CT"):
        raise _zero_slope(folder, slices[0])


def _zero_slope(folder: Path, item: Slice) -> InputError:
    return InputError(
        f"{folder}: {series_name(item.series_number)} has a RescaleSlope of 0, which makes all voxels of a slice the "
        "same. Export the series again."
    )


def holds_series(folder: Path, series: int | str) -> bool:
    """Whether a folder holds the series that ``series`` names, as `read_series_header` takes it."""
    return bool(_named(_series_in(folder)[0], series))


def holds_volume(folder: Path) -> bool:
    """Whether a folder holds a series that is no scout: slices with a place in the patient."""
    return any(not _is_scout(slices) for slices in _series_in(folder)[0])


def _series_in(folder: Path) -> tuple[list[list[Slice]], list[Fault]]:
    by_series: dict[str, list[Slice]] = {}
    slices, faults = read_slices(folder, _visible_files(folder))
    for item in slices:
        by_series.setdefault(item.series_uid, []).append(item)
    return list(by_series.values()), faults


def _visible_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def _choose(
    folder: Path, found: list[list[Slice]], faults: list[Fault], wanted: int | str | None
) -> tuple[list[Slice], list[Fault]]:
    """The slices of the one series that is wanted, and the faults of the others.

    Raises:
        InputError: none, several, or one with a fault; or a damaged file that might belong to it.
    """
    if wanted is not None:
        candidates = _named(found, wanted)
        for fault in faults:
            if not candidates and _is_named(fault, wanted):
                raise InputError(fault.problem)
        if found and not candidates:
            raise InputError(f"{folder}: it has no series {wanted}, but {_listed(found)}. Choose one of these.")
    else:
        candidates = [slices for slices in found if not _is_scout(slices)] or (found if not faults else [])
    if not candidates and faults:
        raise InputError(faults[0].problem)
    if not candidates:
        raise InputError(
            f"{folder}: it holds DICOM files, but no slice with a position in the patient. Give the folder of a CT or "
            "MR series."
        )
    if len(candidates) > 1:
        raise InputError(
            f"{folder}: it holds {len(candidates)} series: {_listed(candidates)}. Choose one with --series and its "
            "number, its UID or its description (to train, copy the data with 'medsam-adapt data convert --series' "
            "first), or put each into a separate folder."
        )
    (chosen,) = candidates
    for fault in faults:
        if fault.series_uid == chosen[0].series_uid or (fault.is_damage and not fault.series_uid):
            raise InputError(fault.problem)
    return chosen, [fault for fault in faults if fault.series_uid != chosen[0].series_uid]


def _named(found: list[list[Slice]], wanted: int | str) -> list[list[Slice]]:
    """The series of a UID, of a number, or of a description, whichever there is first in this order."""
    whole, (name, conditions) = str(wanted).strip(), split_choice(wanted)
    for text, chosen in ((whole, {}), (name, conditions)) if conditions else ((whole, {}),):
        alone = [slices for slices in found if not _is_scout(slices)] if chosen and not text else []
        by_uid = [slices for slices in found if slices[0].series_uid == text]
        by_number = [slices for slices in found if str(slices[0].series_number) == text]
        by_description = [
            slices for slices in found if slices[0].series_description.strip().casefold() == text.casefold() != ""
        ]
        if named := alone or by_uid or by_number or by_description:
            kept = [with_attributes(slices, chosen) for slices in named]
            return [slices for slices in kept if slices]
    return []


def _is_named(fault: Fault, wanted: int | str) -> bool:
    text = split_choice(wanted)[0]
    names = (fault.series_uid, str(fault.series_number), fault.series_description.strip().casefold())
    return text != "" and text.casefold() in names


def _is_scout(slices: list[Slice]) -> bool:
    return len(slices) <= _SCOUT_SLICES or all(item.localizer for item in slices)


def _without_localizers(folder: Path, slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """The slices that are no localizers, and a note about those that are; all where they all are."""
    kept = [item for item in slices if not item.localizer]
    if not kept or len(kept) == len(slices):
        return slices, []
    count = len(slices) - len(kept)
    name = series_name(slices[0].series_number)
    return kept, [f"{folder}: {name} has {counted(count, 'localizer')} beside its slices, left out."]


def _listed(found: list[list[Slice]]) -> str:
    names = []
    for slices in sorted(found, key=lambda slices: (slices[0].series_number or 0, len(slices))):
        first, count = slices[0], len(slices)
        name = "one without a number" if first.series_number is None else f"series {first.series_number}"
        names.append(f"{name} ({first.modality}, {counted(count, 'slice')})")
    return ", ".join(names)


def _read_voxels(header: SeriesHeader) -> tuple[np.ndarray, float, float]:
    """(X, Y, Z) voxels as stored where one rescaling holds for all slices, otherwise rescaled to float32.

    Padding, which stands for "no pixel here", becomes air in a CT, and otherwise 0 or what is darker in the volume.
    """
    columns, rows, count = header.shape
    rescalings = {(item.slope, item.intercept) for item in header.slices}
    dtype = np.result_type(*{item.dtype for item in header.slices}) if len(rescalings) == 1 else np.dtype(np.float32)
    volume = np.empty((count, rows, columns), dtype=dtype)
    padded = np.zeros(volume.shape, dtype=bool) if any(item.padding for item in header.slices) else None
    for index, pixels, padding in read_pixels(header.path, header.slices):
        item = header.slices[index]
        if item.slope == 0 and pixels.any():
            raise _zero_slope(header.path, item)
        if len(rescalings) == 1:
            volume[index] = pixels
        else:
            volume[index] = pixels.astype(np.float64) * item.slope + item.intercept
        if padded is not None and padding is not None:
            padded[index] = padding
    slope, intercept = rescalings.pop() if len(rescalings) == 1 else (1.0, 0.0)
    if padded is not None and padded.any():
        volume = (volume * np.float64(slope) + intercept).astype(np.float32)
        slope, intercept = 1.0, 0.0
        lowest = float(volume[~padded].min()) if not padded.all() else 0.0
        # What is darker than air already stays: lossy compression smears it, so that not all of it can be found.
        volume[padded] = np.minimum(volume[padded], _AIR) if header.modality == "CT" else min(lowest, 0.0)
    return volume.transpose(2, 1, 0), slope, intercept


DICOM = VolumeFormat(read_series_header, _read_voxels, plain_label_header)
