"""The headers of DICOM files, read by pydicom into one plain record a slice; multi-frame files give one a frame."""

from __future__ import annotations

import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsam_adapt.data.volumes.formats.base import DEFLATE_RATIO
from medsam_adapt.data.volumes.formats.dicom_frames import (
    VARYING_TAGS,
    UnsupportedValuesError,
    measures,
    numbers,
    padding,
    rescaling,
    sources_of,
    varying,
)

if TYPE_CHECKING:
    from pydicom import Dataset

_JPEG_RATIO = 16_384  # an empty slice of the JPEG family can be a few bytes; beyond this a header lies
# They have rows and columns, but are drawn over images, or measure something else on a separate grid.
_NO_IMAGES = {"SEG", "RTDOSE", "REG", "PR", "RTIMAGE", "RTPLAN", "RTSTRUCT", "SR", "KO"}
UNKNOWN_MODALITY = "unknown modality"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_BITS = (1, 8, 16, 32, 64)
_LOCALIZERS = ("LOCALIZER", "SCOUT", "TOPOGRAM", "SURVEY")
# All that pydicom reads of a file: an attribute that is not listed is absent from every header. A new one is listed
# here and kept in `Slice`; those that differ between frames are in dicom_frames.py, those of PET in dicom_suv.py.
_TAGS = [
    *("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "Modality", "ImageType"),
    "SeriesDescription",
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    *("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit", "RealWorldValueMappingSequence"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagerPixelSpacing", "NominalScannedPixelSpacing"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *VARYING_TAGS,
]


@dataclass(frozen=True)
class Slice:
    """One slice as its header describes it; lengths in mm, directions in DICOM's LPS.

    Attributes:
        path: the file, and ``frame``, which of its frames this is.
        series_uid, instance_uid, frame_of_reference: identifiers, to compare and never to show.
        series_description: free text, to compare and never to show.
        position: centre of the first voxel.
        orientation: unit vectors along a row and along a column.
        pixel_spacing: between rows and between columns, and ``spacing_from``, the attribute that states it.
        step: distance to the next slice as the header has it, if it does.
        thickness: of the slice itself, if the header has it.
        bits_stored: of the pixels' whole numbers.
        inverted: whether small values are white although they are no measured quantity (MONOCHROME1).
        padding: the lowest and the highest stored value that means "no pixel here".
        varying: what distinguishes the volumes of one series, such as EchoTime: name -> value as text.
    """

    path: Path
    frame: int
    frame_count: int
    series_uid: str = field(repr=False)
    instance_uid: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    series_description: str = field(repr=False)
    series_number: int | None
    modality: str
    localizer: bool
    rows: int
    columns: int
    dtype: np.dtype
    bits_stored: int
    inverted: bool
    padding: tuple[float, float] | None
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    spacing_from: str
    step: float | None
    thickness: float | None
    slope: float
    intercept: float
    varying: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Fault:
    """A file of a series that cannot be used.

    Attributes:
        series_uid, series_number, series_description: of its series; an empty UID where it is not known.
        problem: the sentence, which names the folder.
        is_damage: whether the file is broken; otherwise it is valid and beyond what this package reads.
    """

    series_uid: str = field(repr=False)
    series_number: int | None
    series_description: str = field(repr=False)
    problem: str
    is_damage: bool


def is_dicom(path: Path) -> bool:
    """Whether a file's first bytes are DICOM's, with the usual preamble or in the old form without one."""
    try:
        with path.open("rb") as file:
            block = file.read(132)
    except OSError:
        return False
    # The old form starts with an element of group 8, and not one of the large numbers that other files may hold.
    return block[128:] == b"DICM" or (block[:2] == b"\x08\x00" and block[3:4] == b"\0" and len(block) == 132)


def damage(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What pydicom raises on damaged files, found by damaging them, and ``more``."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    values = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NotImplementedError)
    # pydicom asks for as much memory as an element claims to be long.
    files = (OSError, EOFError, RecursionError, MemoryError, struct.error, zlib.error)
    return (*values, *files, BytesLengthException, InvalidDicomError, *more)


@contextmanager
def quiet_dicom() -> Iterator[None]:
    """pydicom's warnings off for the block: they quote values, which may be a name."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def read_slices(folder: Path, files: Iterable[Path]) -> tuple[list[Slice], list[Fault]]:
    """All slices among ``files``, and the files that should hold some and cannot be used.

    What is no slice with a place in the patient is left out.
    """
    found: dict[tuple[str, int], Slice] = {}
    faults = []
    with quiet_dicom():
        for number, path in enumerate(files, start=1):
            if not is_dicom(path):
                continue
            result = _read(folder, path, number)
            if isinstance(result, Fault):
                faults.append(result)
                continue
            for item in result:
                found.setdefault((item.instance_uid or str(path), item.frame), item)  # the same file copied twice
    return list(found.values()), faults


def _read(folder: Path, path: Path, number: int) -> list[Slice] | Fault:
    """The slices of one file, or why there are none."""
    import pydicom

    common: dict[str, Any] = {"series_uid": "", "series_number": None, "series_description": ""}
    held = path.stat().st_size
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        common = _series(dataset)
        slices = list(_slices_of(path, dataset, common))
        needed, ratio = (_claimed_bytes(dataset), _ratio(dataset)) if slices else (0, 1)
    except UnsupportedValuesError as error:
        text = f"{folder}: {series_name(common['series_number'])} {error}, which is not supported. Save it as NIfTI."
        return Fault(**common, problem=text, is_damage=False)
    except damage():  # the cause quotes values
        return Fault(**common, problem=_damaged(folder, number, "its header is corrupt"), is_damage=True)
    if needed > held * ratio:
        why = f"its header claims {needed:,} bytes, more than {held:,} can hold"
        return Fault(**common, problem=_damaged(folder, number, why), is_damage=True)
    return slices


def series_name(number: int | None) -> str:
    """A series as sentences refer to it."""
    return "a series without a number" if number is None else f"series {number}"


def _series(dataset: Dataset) -> dict[str, Any]:
    number = dataset.get("SeriesNumber")
    return {
        "series_uid": str(dataset.get("SeriesInstanceUID") or ""),
        "series_number": None if number is None else int(number),
        "series_description": str(dataset.get("SeriesDescription") or ""),
    }


def _damaged(folder: Path, number: int, why: str) -> str:
    return (
        f"{folder}: it holds a truncated or damaged DICOM file, number {number} of its files by name ({why}). Copy or "
        "export the series again."
    )


def _claimed_bytes(dataset: Dataset) -> int:
    frames = int(dataset.get("NumberOfFrames") or 1)
    return dataset.Rows * dataset.Columns * frames * dataset.BitsAllocated // 8


def _ratio(dataset: Dataset) -> int:
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax == _DEFLATED:
        return DEFLATE_RATIO
    return _JPEG_RATIO if syntax is not None and not syntax.is_private and syntax.is_compressed else 1


def _slices_of(path: Path, dataset: Dataset, series: dict[str, Any]) -> Iterator[Slice]:
    """The records of one file; none where it is no image, one in colour, or one without a place in the patient."""
    if not (dataset.get("Rows") and dataset.get("Columns")) or dataset.get("Modality") in _NO_IMAGES:
        return
    if dataset.get("SamplesPerPixel", 1) != 1 or not str(dataset.get("PhotometricInterpretation")).startswith("MONO"):
        return
    count, dtype = int(dataset.get("NumberOfFrames") or 1), _dtype(dataset)
    modality = str(dataset.get("Modality") or "")
    common: dict[str, Any] = {
        **series,
        "path": path,
        "frame_count": count,
        "instance_uid": str(dataset.get("SOPInstanceUID") or ""),
        "frame_of_reference": str(dataset.get("FrameOfReferenceUID") or ""),
        # Two or three letters by the standard; more might be anything.
        "modality": modality if re.fullmatch("[A-Z]{2,3}", modality) else UNKNOWN_MODALITY,
        "rows": int(dataset.Rows),
        "columns": int(dataset.Columns),
        "dtype": dtype,
        "bits_stored": int(dataset.get("BitsStored") or 8 * dtype.itemsize),
        "inverted": dataset.PhotometricInterpretation == "MONOCHROME1" and modality not in ("CT", "PT"),
        "padding": padding(dataset, dtype),
    }
    for frame, sources in enumerate(sources_of(dataset, count)):
        position = numbers(sources, "PlanePositionSequence", "ImagePositionPatient", 3)
        orientation = numbers(sources, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
        if position is None or orientation is None:
            return
        if (measured := measures(sources)) is None:
            raise UnsupportedValuesError("has images without PixelSpacing, whose size in millimetres is unknown")
        differing = varying(sources)
        yield Slice(
            **common,
            **measured,
            **rescaling(sources),
            frame=frame,
            position=position,
            orientation=orientation,
            localizer=any(word in differing.get("ImageType", "") for word in _LOCALIZERS),
            varying=differing,
        )


def _dtype(dataset: Dataset) -> np.dtype:
    """Of the stored pixels: whole numbers, or floating point where the attributes of whole numbers are absent."""
    bits, signed = int(dataset.BitsAllocated), dataset.get("PixelRepresentation")
    if bits in (32, 64) and signed is None and dataset.get("BitsStored") is None:
        return np.dtype(f"f{bits // 8}")
    if bits not in _BITS or int(signed or 0) not in (0, 1):
        raise ValueError("bits")
    return np.dtype(f"{'i' if signed else 'u'}{max(bits // 8, 1)}")
