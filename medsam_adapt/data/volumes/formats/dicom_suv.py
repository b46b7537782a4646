"""PET in standardised uptake values by body weight (SUVbw), from the headers of a DICOM series.

    SUVbw = activity concentration [Bq/ml] · body weight [g] / dose [Bq]

The dose is that injected, decayed to the time to which the scanner corrected the images (DecayCorrection): START is the
begin of the scan, ADMIN the injection. The rules are those of the QIBA profile for FDG-PET: the begin of the scan is
SeriesDate and SeriesTime, unless an acquisition is earlier (a series that was processed again); then it is the earliest
acquisition. Philips scanners store counts (CNTS) and their factor to SUV or to Bq/ml in private attributes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.formats.dicom_headers import damage, quiet_dicom, series_name

if TYPE_CHECKING:
    from pydicom import Dataset

    from medsam_adapt.data.volumes.formats.dicom import SeriesHeader

_SMALLEST_DOSE = 1e5  # Bq; less is injected into nobody, and is a dose in MBq or mCi
_LONGEST_DELAY = timedelta(days=30)
_PHILIPS = (0x7053, "Philips PET Private Group")
_PET_TAGS: tuple[str | tuple[int, int], ...] = (
    *(
        "Units",
        "SUVType",
        "DecayCorrection",
        "CorrectedImage",
        "PatientWeight",
        "RadiopharmaceuticalInformationSequence",
    ),
    *("SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime"),
    *((0x7053, 0x0010), (0x7053, 0x1000), (0x7053, 0x1009)),
)


def suv_factor(header: SeriesHeader) -> float:
    """By what the rescaled voxels of a PET series are multiplied to be SUV by body weight.

    Raises:
        InputError: other units than BQML, GML or Philips' CNTS, SUV of another kind, images without decay correction,
            or a weight, dose, half-life or time that is missing or cannot be.
    """
    paths = dict.fromkeys(item.path for item in header.slices)
    with quiet_dicom():
        try:
            datasets = [_read(path) for path in paths]
            return _factor(datasets)
        except _MissingError as error:
            raise InputError(
                f"{header.path}: the SUV of {series_name(header.slices[0].series_number)} cannot be computed: {error}. "
                "Export the series again with that attribute, or use --set intensity=percentile."
            ) from None  # nothing that a file states of its patient is shown
        except damage():
            raise InputError(f"{header.path}: its headers cannot be read for the SUV. Export it again.") from None


class _MissingError(ValueError):
    """Why there is no SUV, as the end of a sentence."""


def _read(path: Path) -> Dataset:
    import pydicom
    from pydicom.tag import Tag

    tags = [Tag(tag) for tag in _PET_TAGS]
    return pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)


def _factor(datasets: list[Dataset]) -> float:
    first = datasets[0]
    units = _same(datasets, "Units")
    if units == "GML":
        kind = str(first.get("SUVType") or "BW")
        if kind != "BW":
            raise _MissingError(f"its voxels are SUV of the type {kind}, and SUV by body weight (BW) are wanted")
        return 1.0
    scale = 1.0
    if units == "CNTS":
        suv, concentration = (_private(first, element) for element in (0x00, 0x09))
        if suv:
            return suv
        if not concentration:
            raise _MissingError("its units are CNTS (counts) without the private factors that Philips scanners store")
        scale = concentration
    elif units != "BQML":
        raise _MissingError(f"its units are {units or 'not stated'}, and BQML, GML or Philips' CNTS are known")
    weight = _number(first.get("PatientWeight"), "PatientWeight")
    return scale * 1000 * weight / _dose(datasets)


def _dose(datasets: list[Dataset]) -> float:
    """Bq, at the time to which the images are corrected."""
    first = datasets[0]
    drug = next(iter(first.get("RadiopharmaceuticalInformationSequence") or ()), None)
    if drug is None:
        raise _MissingError("it has no RadiopharmaceuticalInformationSequence")
    dose = _number(drug.get("RadionuclideTotalDose"), "RadionuclideTotalDose")
    if dose < _SMALLEST_DOSE:
        raise _MissingError(f"its RadionuclideTotalDose of {dose:g} Bq is no injected dose, it may be in MBq")
    corrected = _same(datasets, "DecayCorrection")
    if corrected == "ADMIN":
        return dose
    if corrected != "START":
        raise _MissingError(f"its DecayCorrection is {corrected or 'not stated'}, and START or ADMIN are known")
    half_life = _number(drug.get("RadionuclideHalfLife"), "RadionuclideHalfLife")
    delay = _delay(datasets, drug)
    return dose * math.exp(-math.log(2) * delay.total_seconds() / half_life)


def _delay(datasets: list[Dataset], drug: Dataset) -> timedelta:
    """From the injection to the begin of the scan."""
    series = _time(datasets[0].get("SeriesDate"), datasets[0].get("SeriesTime"))
    acquired = [_time(each.get("AcquisitionDate"), each.get("AcquisitionTime")) for each in datasets]
    known = [time for time in acquired if time is not None]
    scan = min(known) if known and (series is None or series > min(known)) else series
    if scan is None:
        raise _MissingError("it has no SeriesDate and SeriesTime")
    whole = str(drug.get("RadiopharmaceuticalStartDateTime") or "")
    injected = _time(whole[:8], whole[8:])
    if injected is None:  # a time of day alone: of the day of the scan, or of the one before
        injected = _time(scan.strftime("%Y%m%d"), drug.get("RadiopharmaceuticalStartTime"))
        if injected is None:
            raise _MissingError("it has no RadiopharmaceuticalStartTime")
        if injected > scan:
            injected -= timedelta(days=1)
    if not timedelta(0) <= scan - injected <= _LONGEST_DELAY:
        raise _MissingError("its injection is not before its scan, or more than 30 days before it")
    return scan - injected


def _time(date: Any, time: Any) -> datetime | None:
    """Date (YYYYMMDD) and time (HHMMSS.F, perhaps with an offset from UTC, which is left out); None where absent."""
    day, clock = str(date or "").strip(), str(time or "").strip()
    clock = clock.split("+")[0].split("-")[0]
    if not day or not clock:
        return None
    whole, _, fraction = clock.partition(".")
    try:
        found = datetime.strptime(day + whole.ljust(6, "0")[:6], "%Y%m%d%H%M%S")
        return found + timedelta(seconds=float(f"0.{fraction or 0}"))
    except ValueError:
        return None


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise _MissingError(f"it has no {name} above 0")
    return number


def _same(datasets: Iterable[Dataset], name: str) -> str:
    found = {str(each.get(name) or "").strip().upper() for each in datasets}
    if len(found) > 1:
        raise _MissingError(f"its slices differ in {name}")
    # Code strings by the standard; anything else might be anything and is not shown.
    text = found.pop()
    return text if len(text) <= 16 and text.replace("_", "").isalnum() else ""


def _private(dataset: Dataset, element: int) -> float:
    """A number of Philips' private group; 0 where it is absent."""
    group, creator = _PHILIPS
    try:
        value = dataset.private_block(group, creator)[element].value
    except KeyError:
        return 0.0
    try:
        return float(value.decode() if isinstance(value, bytes) else value)  # written as text of unknown type too
    except (TypeError, ValueError, UnicodeDecodeError):
        return 0.0
