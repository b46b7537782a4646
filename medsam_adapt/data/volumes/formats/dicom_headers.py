"""The headers of DICOM files, read by pydicom into one plain record a slice; multi-frame files give one a frame."""

from __future__ import annotations

import logging
import math
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

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.formats.base import DEFLATE_RATIO

if TYPE_CHECKING:
    from pydicom import Dataset

_JPEG_RATIO = 16_384  # an empty slice of the JPEG family can be a few bytes; beyond this a header lies
_NO_IMAGES = {"SEG", "RTDOSE", "REG", "PR"}  # they have rows and columns, but are drawn over images
_DEFLATED = "1.2.840.10008.1.2.1.99"
_TAGS = [
    *("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "Modality", "ImageType"),
    "SeriesDescription",
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
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
        pixel_spacing: between rows and between columns.
        thickness: distance to the next slice as the header has it, if it does.
        inverted: whether small values are white although they are no measured quantity (MONOCHROME1).
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
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    thickness: float | None
    slope: float
    intercept: float


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


def read_slices(folder: Path, files: Iterable[Path]) -> list[Slice]:
    """All slices among ``files``; what is no slice with a place in the patient is left out.

    Raises:
        InputError: a damaged DICOM file, or one whose header claims more voxels than it can hold.
    """
    import pydicom

    found: dict[tuple[str, int], Slice] = {}
    with quiet_dicom():
        for number, path in enumerate(files, start=1):
            if not is_dicom(path):
                continue
            try:
                dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
                slices = list(_slices_of(path, dataset))
                needed, ratio = (_claimed_bytes(dataset), _ratio(dataset)) if slices else (0, 1)
            except damage():
                raise _damaged(folder, number, "its header is corrupt") from None  # the cause quotes values
            held = path.stat().st_size
            if needed > held * ratio:
                raise _damaged(folder, number, f"its header claims {needed:,} bytes, more than {held:,} can hold")
            for item in slices:
                found.setdefault((item.instance_uid or str(path), item.frame), item)  # the same file copied twice
    return list(found.values())


def _damaged(folder: Path, number: int, why: str) -> InputError:
    return InputError(
        f"{folder} holds a truncated or damaged DICOM file, number {number} of its files by name ({why}); copy or "
        "export the series again"
    )


def _claimed_bytes(dataset: Dataset) -> int:
    frames = int(dataset.get("NumberOfFrames") or 1)
    return dataset.Rows * dataset.Columns * frames * dataset.BitsAllocated // 8


def _ratio(dataset: Dataset) -> int:
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax == _DEFLATED:
        return DEFLATE_RATIO
    return _JPEG_RATIO if syntax is not None and not syntax.is_private and syntax.is_compressed else 1


def _slices_of(path: Path, dataset: Dataset) -> Iterator[Slice]:
    """The records of one file; none where it is no image, one in colour, or one without a place in the patient."""
    if not (dataset.get("Rows") and dataset.get("Columns")) or dataset.get("Modality") in _NO_IMAGES:
        return
    if dataset.get("SamplesPerPixel", 1) != 1 or not str(dataset.get("PhotometricInterpretation")).startswith("MONO"):
        return
    bits, signed = int(dataset.BitsAllocated), int(dataset.get("PixelRepresentation") or 0)
    if bits not in (8, 16, 32) or signed not in (0, 1):
        raise ValueError("bits")
    count, number = int(dataset.get("NumberOfFrames") or 1), dataset.get("SeriesNumber")
    modality = str(dataset.get("Modality") or "")
    common: dict[str, Any] = {
        "path": path,
        "frame_count": count,
        "series_uid": str(dataset.get("SeriesInstanceUID") or ""),
        "instance_uid": str(dataset.get("SOPInstanceUID") or ""),
        "frame_of_reference": str(dataset.get("FrameOfReferenceUID") or ""),
        "series_description": str(dataset.get("SeriesDescription") or ""),
        "series_number": None if number is None else int(number),
        # Two or three letters by the standard; more might be anything.
        "modality": modality if re.fullmatch("[A-Z]{2,3}", modality) else "unknown modality",
        "localizer": "LOCALIZER" in (dataset.get("ImageType") or ()),
        "rows": int(dataset.Rows),
        "columns": int(dataset.Columns),
        "dtype": np.dtype(f"{'i' if signed else 'u'}{bits // 8}"),
        "bits_stored": int(dataset.get("BitsStored") or bits),
        "inverted": dataset.PhotometricInterpretation == "MONOCHROME1" and modality not in ("CT", "PT"),
    }
    for frame, sources in enumerate(_sources(dataset, count)):
        position = _numbers(sources, "PlanePositionSequence", "ImagePositionPatient", 3)
        orientation = _numbers(sources, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
        if position is None or orientation is None:
            return
        yield Slice(frame=frame, position=position, orientation=orientation, **_measures(sources), **common)


def _sources(dataset: Dataset, count: int) -> Iterator[tuple[Dataset, ...]]:
    """Where each frame's attributes stand, the most particular first."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = tuple(dataset.get("SharedFunctionalGroupsSequence") or ())
    if groups is None:
        if count == 1:
            yield (*shared, dataset)
        return  # frames without positions of their own are no volume
    if len(groups) != count:
        raise ValueError("frames")
    for group in groups:
        yield (group, *shared, dataset)


def _numbers(sources: tuple[Dataset, ...], macro: str, name: str, length: int) -> tuple[float, ...] | None:
    """An attribute of one frame, from its functional groups or from the file's top level; None where it is absent."""
    for source in sources:
        for place in (*(source.get(macro) or ()), source):
            if (value := place.get(name)) is not None and value != "":
                numbers = tuple(float(part) for part in (value if length > 1 else [value]))
                if len(numbers) != length or not all(map(math.isfinite, numbers)):
                    raise ValueError(name)
                return numbers
    return None


def _measures(sources: tuple[Dataset, ...]) -> dict[str, Any]:
    """Spacing, thickness and rescaling of one frame."""
    macro = "PixelMeasuresSequence"
    spacing = _numbers(sources, macro, "PixelSpacing", 2)
    if spacing is None or min(spacing) <= 0:
        raise ValueError("spacing")
    distance = _numbers(sources, macro, "SpacingBetweenSlices", 1) or _numbers(sources, macro, "SliceThickness", 1)
    macro = "PixelValueTransformationSequence"
    slope = _numbers(sources, macro, "RescaleSlope", 1) or (1.0,)
    intercept = _numbers(sources, macro, "RescaleIntercept", 1) or (0.0,)
    if slope[0] == 0 or any(source.get("ModalityLUTSequence") for source in sources):
        raise ValueError("rescaling")
    return {
        "pixel_spacing": spacing,
        "thickness": distance[0] if distance else None,
        "slope": slope[0],
        "intercept": intercept[0],
    }
