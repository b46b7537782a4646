"""What the DICOM formats share: the library that they need, the images that they refer to, and codes."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole
from medsam_adapt.data.volumes.dicom_labels import OWN_MODEL
from medsam_adapt.data.volumes.formats.dicom import SeriesHeader
from medsam_adapt.data.volumes.formats.dicom_headers import damage, quiet_dicom
from medsam_adapt.data.volumes.image_set import reference_series
from medsam_adapt.data.volumes.io import VolumeHeader
from medsam_adapt.outputs import Segmentation
from medsam_adapt.outputs._anatomy import Code

#: makes a DICOM object of a segmentation and the series that it refers to
Build = Callable[[Segmentation, SeriesHeader], Any]

MANUFACTURER = OWN_MODEL
SERIES_NUMBER = 900  # far from the scanner's own
CHARACTER_SET = "ISO_IR 192"  # UTF-8: class names may be in any script
LONGEST_TEXT = 1024  # characters of a description (value representation ST)
_LONGEST = 64  # characters of a name (value representation LO) or a UID
_MAY_BE_EMPTY = (  # attributes of patient and study that the standard wants there, if only empty
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "SOPInstanceUID")


def require_highdicom() -> None:
    """Raise an InputError when highdicom is not installed."""
    if importlib.util.find_spec("highdicom") is None:
        raise InputError(
            "--format: DICOM outputs need highdicom, which is not installed. Run pip install 'medsam-adapt[dicom]', or "
            "choose another format."
        )


def series_of(like: VolumeHeader) -> SeriesHeader:
    """The header as that of a DICOM series; of the images of a case, that of the first, on whose grid the mask is.

    Raises:
        InputError: the volume, or the first image, was not read from DICOM.
    """
    series = reference_series(like)
    if series is None:
        raise InputError(
            f"{like.path}: it is not a DICOM series, which a DICOM output refers to. Choose another --format."
        )
    return series


def source_images(series: SeriesHeader) -> tuple[list[Any], list[int]]:
    """The data sets of a series without their pixels, and which slice (along the array's third axis) each frame is.

    A data set is one slice, or all of them as its frames. What an output repeats and may be empty is emptied where it
    is invalid, and what follows from the geometry is filled in.

    Raises:
        InputError: an identifier is missing, invalid or given twice; the sentence names the attribute, not the value.
    """
    import pydicom

    paths = dict.fromkeys(item.path for item in series.slices)
    images = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths]
    if unusable := _unusable_identifiers(images):
        raise InputError(
            f"{series.path}: {' and '.join(unusable)} {'is' if len(unusable) == 1 else 'are'} missing, invalid or not "
            "unique, and a DICOM output must repeat "
            f"{'it' if len(unusable) == 1 else 'them'}. Export the series again, or choose another --format."
        )
    first = images[0]
    for image in images:
        _empty_invalid_text(image)
        if image.get("PatientSex") not in ("M", "F", "O"):
            image.PatientSex = ""
        for name in _MAY_BE_EMPTY:
            if name not in image:  # as anonymisers leave it
                setattr(image, name, "")
        if "SharedFunctionalGroupsSequence" not in image:
            image.SliceThickness = image.get("SliceThickness") or f"{series.spacing[2]:.10g}"
            image.PixelSpacing = [f"{length:.10g}" for length in series.slices[0].pixel_spacing]
            image.ImageOrientationPatient = first.ImageOrientationPatient  # they differ by rounding
    if len(images) > 1 or series.slices[0].frame_count == 1:
        return images, list(range(len(series.slices)))
    place = {item.frame: index for index, item in enumerate(series.slices)}
    return images, [place[frame] for frame in sorted(place)]


def _unusable_identifiers(images: list[Any]) -> list[str]:
    """The UIDs that an output repeats and that it cannot repeat."""
    found = [name for name in _IDENTIFIERS if not all(_is_usable(name, image.get(name)) for image in images)]
    instances = [str(image.get("SOPInstanceUID")) for image in images]
    if len({*instances}) < len(instances) and "SOPInstanceUID" not in found:
        found.append("SOPInstanceUID")
    return found


def _is_usable(name: str, value: Any) -> bool:
    """Whether a UID has a UID's form, leading zeros allowed since some vendors write them; and is known, if a class."""
    from pydicom.uid import UID

    text = str(value or "")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)+", text) or len(text) > _LONGEST:
        return False
    return name != "SOPClassUID" or UID(text).name != text


def _empty_invalid_text(image: Any) -> None:
    """Empty what describes patient and study and breaks the rules of its value representation, as 20001332 for a date.

    All of it may be empty by the standard, and a file that breaks the rules is refused by archives.
    """
    from pydicom import DataElement
    from pydicom.config import RAISE
    from pydicom.datadict import dictionary_VR
    from pydicom.valuerep import DA, DT, TM, validate_value

    dates = {"DA": DA, "TM": TM, "DT": DT}  # they notice a month 13

    for tag in [tag for tag in image.keys() if tag.group in (0x0008, 0x0010)]:  # noqa: SIM118 (elements otherwise)
        try:
            element = image[tag]
            if element.VR in ("DA", "TM", "DT", "AS", "DS", "IS") and element.value not in (None, ""):
                values = element.value if element.VM > 1 else [element.value]
                for value in values:
                    validate_value(element.VR, str(value), RAISE)
                    dates.get(element.VR, str)(str(value))
        except damage():
            image[tag] = DataElement(tag, dictionary_VR(tag), "")


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
                f"{series.path}: attributes that a DICOM output must repeat are missing or damaged. Export the series "
                "again, or choose another --format."
            ) from None


def dicom_names(names: Sequence[str]) -> list[str]:
    """Names as DICOM takes them: at most 64 characters, no backslash, which parts values, and none twice."""
    found: list[str] = []
    for name in names:
        plain = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
        plain = plain.replace("\\", "/") or "unnamed"
        candidate, count = plain[:_LONGEST].rstrip(), 1
        while candidate.casefold() in {other.casefold() for other in found}:
            count += 1
            candidate = f"{plain[: _LONGEST - len(str(count)) - 1].rstrip()}~{count}"
        found.append(candidate)
    return found


def coded(code: Code) -> Any:
    """A concept as pydicom writes it."""
    from pydicom.sr.coding import Code as DicomCode

    return DicomCode(code.value, "SCT", code.meaning)


def version() -> str:
    """Of this package."""
    return metadata.version("medsam-adapt")


def write_object(build: Build, path: Path, segmentation: Segmentation, like: VolumeHeader) -> None:
    """Write the object that ``build`` makes of a segmentation and the series that it refers to."""
    series = series_of(like)
    with refused_if_unusable(series):
        save(build(segmentation, series), path)


def check_object(build: Build, like: VolumeHeader) -> None:
    """Raise an InputError where ``build`` can make nothing for these images, whatever the segmentation will be."""
    series = series_of(like)
    voxels = np.zeros(series.shape, dtype=np.uint8)
    voxels[0, 0, 0] = 1
    with refused_if_unusable(series):
        encode(build(Segmentation(voxels, ["check"], [1]), series))


def encode(dataset: Any) -> None:
    """Encode a DICOM file and forget it, to see whether that works."""
    dataset.save_as(BytesIO(), enforce_file_format=True)


def save(dataset: Any, path: Path) -> None:
    """Write a DICOM file, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with quiet_dicom(), written_whole(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    except OSError as error:
        raise InputError(
            f"{path}: it cannot be written ({error.strerror}). Choose another folder or free some space."
        ) from error


def lps_affine(series: SeriesHeader) -> np.ndarray:
    """(4, 4) from voxel index to DICOM's millimetres."""
    return cast("np.ndarray", np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.affine)
