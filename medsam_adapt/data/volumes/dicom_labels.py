"""Labels from DICOM: segmentations (SEG, read by highdicom) and structure sets (RTSTRUCT), on the grid of their image.

A voxel belongs to a contour if its centre lies inside or on the path; how contours of one structure on one slice are
combined is in `contour_fill`. Structures are named as the file names them; sentences refer to them by number. A fault
of one structure is reported for that structure, and stops only those who asked for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.dicom_contours import read_structures
from medsam_adapt.data.volumes.dicom_segments import require_highdicom, segment_mask
from medsam_adapt.data.volumes.files import is_slicer_label
from medsam_adapt.data.volumes.formats.base import VolumeHeader
from medsam_adapt.data.volumes.formats.dicom_headers import damage, is_dicom, quiet_dicom
from medsam_adapt.data.volumes.headers import read_header
from medsam_adapt.data.volumes.image_set import reference_series
from medsam_adapt.data.volumes.slicer_labels import read_segments, segments_of

if TYPE_CHECKING:
    from pydicom import Dataset

LABEL_KINDS = ("SEG", "RTSTRUCT")
OWN_MODEL = "medsam-adapt"  # ManufacturerModelName of what this package writes
_LARGEST_NUMBER = 65535  # label maps are uint16


@dataclass(frozen=True, eq=False)
class DicomLabels:
    """A SEG or RTSTRUCT file on the grid of its image.

    Attributes:
        path: the file.
        names: number -> name, ascending; several structures may have one name, and then are parts of one class.
        problems: number -> why a structure cannot be used, as a sentence that names the file.
        notes: number -> what was left out of a structure or cut off, likewise; 0 for the file as a whole.
    """

    path: Path
    names: dict[int, str]
    _mask: Callable[[int], np.ndarray]
    problems: dict[int, str] = field(default_factory=dict)
    notes: dict[int, list[str]] = field(default_factory=dict)

    def mask(self, number: int) -> np.ndarray:
        """(X, Y, Z) bool: the voxels of a structure.

        Raises:
            InputError: the structure has a problem.
        """
        if number in self.problems:
            raise InputError(self.problems[number])
        return self._mask(number)


def dicom_kind(path: Path) -> str | None:
    """The modality of a DICOM file ("CT", "SEG", "RTSTRUCT", ...); None where it is none or names none."""
    import pydicom

    if not is_dicom(path):
        return None
    try:
        with quiet_dicom():
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=["Modality"])
            return str(dataset.get("Modality") or "") or None
    except damage():
        return None  # whoever reads the file reports it


@quiet_dicom()  # pydicom warns of values when they are accessed
def structure_names(path: str | Path) -> dict[int, str]:
    """Number -> name of the structures in a SEG, RTSTRUCT or 3D Slicer file, ascending.

    Raises:
        InputError: no such file, neither of the two, or damaged.
    """
    if is_slicer_label(path):
        return {number: segment.name for number, segment in enumerate(segments_of(path), start=1)}
    return _names(Path(path), _read(Path(path)))[0]


@quiet_dicom()
def open_dicom_labels(path: str | Path, image: str | Path | VolumeHeader) -> DicomLabels:
    """The structures of a SEG, RTSTRUCT or 3D Slicer file on the grid of its image; masks are made on request.

    Args:
        path: the file.
        image: the image's folder (or file of another format), or its header.

    Raises:
        InputError: as `structure_names` and `read_header`; or the file as a whole was drawn on another series.
    """
    path, header = Path(path), image if isinstance(image, VolumeHeader) else read_header(image)
    if is_slicer_label(path):
        masks = read_segments(path, header)
        return DicomLabels(path, dict(enumerate(masks, start=1)), lambda number: [*masks.values()][number - 1])
    dataset = _read(path)
    names, numbers = _names(path, dataset)
    series = reference_series(header)
    frames = set() if series is None else {item.frame_of_reference for item in series.slices} - {""}
    _check_frame_of_reference(path, dataset, header, frames)
    if dataset.Modality == "SEG":
        return DicomLabels(path, names, lambda number: segment_mask(path, dataset, number, header))
    try:
        structures, notes = read_structures(dataset, numbers, header, frames)
    except damage():
        raise _damaged(path) from None
    return DicomLabels(
        path,
        names,
        lambda number: structures[number].mask(header.shape),
        {number: f"{path}: structure {number} {item.problem}." for number, item in structures.items() if item.problem},
        {
            **{number: _sentences(path, number, item.notes) for number, item in structures.items() if item.notes},
            **({0: [f"{path} {note}." for note in notes]} if notes else {}),
        },
    )


def _sentences(path: Path, number: int, notes: Sequence[str]) -> list[str]:
    return [f"{path}: structure {number} {note}." for note in notes]


def read_dicom_labels(
    path: str | Path, image: str | Path | VolumeHeader, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[np.ndarray | dict[str, np.ndarray], dict[int, str]]:
    """The structures of a SEG or RTSTRUCT file on the grid of its image.

    Args:
        path: the file.
        image: the image's folder (or file of another format), or its header.
        wanted: whether the structures of a name are wanted; the others are left out, whatever is wrong with them.

    Returns:
        (X, Y, Z) uint8 or uint16 with the structures' numbers, or where structures overlap {name: (X, Y, Z) bool}; and
        number -> name.

    Raises:
        InputError: as `open_dicom_labels`; or a structure that is wanted has a problem.
    """
    header = image if isinstance(image, VolumeHeader) else read_header(image)
    labels = open_dicom_labels(path, header)
    names = {number: name for number, name in labels.names.items() if wanted(name)}
    label = np.zeros(header.shape, dtype=np.uint8 if max(names, default=0) <= 255 else np.uint16)
    for number, mask in ((number, labels.mask(number)) for number in names):
        if any(names[int(other)] != names[number] for other in np.unique(label[mask]) if other):
            return masks_by_name(labels, names), names
        label[mask] = number
    return label, names


def masks_by_name(labels: DicomLabels, names: Mapping[int, str]) -> dict[str, np.ndarray]:
    """Name -> (X, Y, Z) bool of the given structures; those of one name are joined."""
    masks: dict[str, np.ndarray] = {}
    for number, name in names.items():
        mask = labels.mask(number)
        masks[name] = masks[name] | mask if name in masks else mask
    return masks


def _read(path: Path) -> Dataset:
    import pydicom

    if not path.is_file():
        raise InputError(f"{path}: it does not exist. Give the file of a DICOM segmentation or structure set.")
    kind = dicom_kind(path)
    if kind not in LABEL_KINDS:
        raise InputError(
            f"{path}: it is neither a DICOM segmentation (SEG) nor a structure set (RTSTRUCT). Give one of these."
        )
    try:
        with quiet_dicom():
            if kind == "RTSTRUCT":
                return pydicom.dcmread(path, force=True)
            return require_highdicom().seg.segread(path)
    except damage(RuntimeError, sqlite3.Error):
        raise _damaged(path) from None  # the cause quotes values


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: it cannot be read, possibly truncated or damaged. Copy or export it again.")


def _names(path: Path, dataset: Dataset) -> tuple[dict[int, str], dict[int, int]]:
    """Number -> name, and number in the file -> number that the structure goes by here."""
    try:
        if dataset.Modality == "SEG":  # a segment 0 is the background of a label map
            items = dataset.SegmentSequence
            pairs = [(int(item.SegmentNumber), _given(dataset, item, "Segment", "Label")) for item in items]
            pairs = [(number, name) for number, name in pairs if number > 0]
        else:
            items = dataset.get("StructureSetROISequence") or ()
            pairs = [(int(item.ROINumber), _given(dataset, item, "ROI", "Name")) for item in items]
    except damage():
        raise _damaged(path) from None
    pairs.sort(key=lambda pair: pair[0])
    given = [number for number, _ in pairs]
    if len({*given}) < len(given):
        raise InputError(f"{path}: two structures have the same number. Export it again.")
    # Any number is allowed there, but 0 is our background and label maps are uint16.
    plain = min(given, default=1) > 0 and max(given, default=1) <= _LARGEST_NUMBER
    numbers = {number: number if plain else index for index, number in enumerate(given, start=1)}
    texts = {number: _text(name) or f"unnamed structure {numbers[number]}" for number, name in pairs}
    return {numbers[number]: name for number, name in texts.items()}, numbers


def _given(dataset: Dataset, item: Dataset, kind: str, name: str) -> Any:
    """A structure's name; our own files keep one that is too long for its attribute in the description."""
    whole = item.get(f"{kind}Description") if str(dataset.get("ManufacturerModelName")) == OWN_MODEL else None
    return whole or item.get(f"{kind}{name}")


def _text(name: Any) -> str:
    """A name as one line; a backslash within it makes DICOM take it for several values."""
    parts = [name] if isinstance(name, str) or name is None else name
    return " ".join("\\".join(str(part or "") for part in parts).split())


def _check_frame_of_reference(path: Path, dataset: Dataset, header: VolumeHeader, images: set[str]) -> None:
    """Refuse a label of another patient or session, where both files name their frames of reference."""
    own = {str(dataset.get("FrameOfReferenceUID") or "")}
    for sequence in ("ReferencedFrameOfReferenceSequence", "StructureSetROISequence"):
        for item in dataset.get(sequence) or ():
            own |= {str(item.get(name) or "") for name in ("FrameOfReferenceUID", "ReferencedFrameOfReferenceUID")}
    if (own := own - {""}) and images and not own & images:
        raise InputError(
            f"{path}: it was drawn on another series than that in {header.path} (another frame of reference). Give the "
            "label that belongs to it."
        )
