"""DICOM labels as the label files that every other part reads: made once, kept under ``MEDSAM_ADAPT_HOME``.

Structures are numbered differently in every file, so that only their names show what is the same class in two
patients; here they get the data set's ids. Structures of one name are one class.

    labels/<32 hexadecimal digits>/label.nii.gz      structures that do not overlap
                                   <class id>.nii.gz  a mask for each of those that do
                                   faults.json        what is wrong with single structures
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medsam_adapt.core.cache import labels_folder, made_in_cache
from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.files import file_sha256, is_disk_full, make_shared_folder
from medsam_adapt.core.text import class_key, counted
from medsam_adapt.data.volumes.dicom_labels import DicomLabels, open_dicom_labels
from medsam_adapt.data.volumes.io import VolumeHeader, read_header, write_label

_FORMAT = 2  # part of the key: raise it when the written files change their meaning
_FAULTS = "faults.json"
_FILE = "{file}"  # stands for the label's path in stored sentences


@dataclass(frozen=True)
class ConvertedLabel:
    """A DICOM label as files.

    Attributes:
        label: a label map, None where structures overlap or none is there.
        masks: class id -> mask, where structures overlap.
        problems: class id -> why that class cannot be read from this file.
        notes: what was left out or cut off, a sentence each.
    """

    label: Path | None
    masks: dict[int, Path] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def converted_label(label: Path, image: Path, classes: Mapping[int, str], series: str | None = None) -> ConvertedLabel:
    """The label files of a SEG or RTSTRUCT file.

    Args:
        label: the file.
        image: the folder of its series.
        classes: label id -> name; structures of other names are left out, whatever is wrong with them.
        series: which series of that folder, where it holds several.

    Raises:
        InputError: as `open_dicom_labels`; the folder cannot be written to.
        RunError: the disk is full.
    """
    folder = labels_folder() / _key(label, image, classes, series)
    if not folder.is_dir():
        try:
            _make(label, read_header(image, series), classes, folder)
        except OSError as error:
            if is_disk_full(error):
                raise RunError(f"{folder}: there is no space for the labels of {label}. Free some space.") from error
            raise InputError(
                f"{folder}: it cannot be written to ({error.strerror}). Name another folder in MEDSAM_ADAPT_HOME."
            ) from error
    faults = json.loads((folder / _FAULTS).read_text(encoding="utf-8").replace(_FILE, json.dumps(str(label))[1:-1]))
    whole = folder / "label.nii.gz"
    masks = {int(path.name.partition(".")[0]): path for path in sorted(folder.glob("*.nii.gz")) if path != whole}
    problems = {int(class_id): problem for class_id, problem in faults["problems"].items()}
    return ConvertedLabel(whole if whole.is_file() else None, masks, problems, tuple(faults["notes"]))


def _key(label: Path, image: Path, classes: Mapping[int, str], series: str | None) -> str:
    """The label's bytes, and names, sizes and times of the image's files: whole series would take long to hash."""
    files = image.iterdir() if image.is_dir() else [image]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    description = [_FORMAT, file_sha256(label), str(image.resolve()), sorted(stats), sorted(classes.items())]
    description += [] if series is None else [series]
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:32]


def _make(label: Path, header: VolumeHeader, classes: Mapping[int, str], folder: Path) -> None:
    """Convert, and write the folder as a whole."""
    labels = open_dicom_labels(label, header)
    ids = {class_key(name): class_id for class_id, name in classes.items()}
    wanted = {number: ids[class_key(name)] for number, name in labels.names.items() if class_key(name) in ids}
    whole, overlap = np.zeros(header.shape, dtype=np.uint16), False
    problems: dict[int, str] = {}
    for class_id in {*wanted.values()}:
        try:
            mask = _class_mask(labels, wanted, class_id)
        except InputError as error:
            problems[class_id] = str(error)
            continue
        overlap = overlap or bool(whole[mask].any())
        whole[mask] = class_id
    faults = {"problems": problems, "notes": _notes(labels, wanted)}
    make_shared_folder(folder.parent)
    with made_in_cache(folder) as temporary:
        if overlap:  # masks are made again: of many structures, they would not all fit into memory
            for class_id in {*wanted.values()} - problems.keys():
                mask = _class_mask(labels, wanted, class_id)
                write_label(temporary / f"{class_id}.nii.gz", mask.astype(np.uint8), header)
        else:
            write_label(temporary / "label.nii.gz", whole, header)
        text = json.dumps(faults, ensure_ascii=False).replace(json.dumps(str(label), ensure_ascii=False)[1:-1], _FILE)
        (temporary / _FAULTS).write_text(text, encoding="utf-8")


def _class_mask(labels: DicomLabels, wanted: Mapping[int, int], class_id: int) -> np.ndarray:
    """The structures of one class, joined."""
    numbers = [number for number, other in wanted.items() if other == class_id]
    mask = labels.mask(numbers[0])
    for number in numbers[1:]:
        mask = mask | labels.mask(number)
    return mask


def _notes(labels: DicomLabels, wanted: Mapping[int, int]) -> list[str]:
    """About the file, about the structures that are wanted, and how many others have faults."""
    notes = [note for number in (0, *wanted) for note in labels.notes.get(number, ())]
    several = sorted(class_id for class_id in {*wanted.values()} if [*wanted.values()].count(class_id) > 1)
    for class_id in several:
        same = [number for number, other in wanted.items() if other == class_id]
        notes.append(f"{labels.path}: structures {', '.join(map(str, same))} have one name and are joined.")
    if others := sorted(labels.problems.keys() - wanted.keys()):
        listed = ", ".join(map(str, others))
        notes.append(
            f"{labels.path}: left out {counted(len(others), 'structure')} that cannot be used and no class asks "
            f"for ({listed})."
        )
    return notes
