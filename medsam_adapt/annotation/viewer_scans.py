"""Scans and labels as a viewer gets and sends them: files in the axis order of the scan's own file."""

from __future__ import annotations

import json
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

from medsam_adapt.annotation.drawing import Drawing
from medsam_adapt.annotation.session import Session
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import file_sha256
from medsam_adapt.core.json_files import peek_object
from medsam_adapt.core.text import class_key, did_you_mean
from medsam_adapt.data.slices.geometry import volume_to_slices
from medsam_adapt.data.volumes.image_set import ImageSet
from medsam_adapt.data.volumes.io import FORMATS, VolumeHeader, read_label, read_volume, write_label, write_volume
from medsam_adapt.outputs import Segmentation, get_format

ORIGINAL, FINAL = "original", "final"  # MONAI Label's names of a model's label and a person's
_MOST_UPLOADS = 2
_WRITERS = {".nrrd": "nrrd", ".mha": "mha", ".seg.nrrd": "seg-nrrd"}


def scan_file(session: Session, scan: str) -> Path | None:
    """The file that a viewer shows, of several images of a case the first one's; None where it is no file by itself."""
    image = session.scans[scan].image
    if isinstance(image, ImageSet):
        return None if image.is_4d or image.first.is_dir() else image.first
    return image if image.is_file() else None


def scan_file_name(session: Session, scan: str) -> str:
    """Name under which a viewer keeps a scan: of its file, or the id of what is sent as NIfTI."""
    image = session.scans[scan].image
    if (path := scan_file(session, scan)) is not None:
        return f"{scan}_{path.name}" if isinstance(image, ImageSet) else path.name
    return f"{scan}_{file_sha256(image.first if isinstance(image, ImageSet) else image)[:8]}.nii.gz"


def scan_content(session: Session, scan: str) -> bytes:
    """The scan's file, or a DICOM series or an image of a 4D file as NIfTI; of several images of a case the first.

    Raises:
        InputError: a series that cannot be read.
    """
    if (path := scan_file(session, scan)) is not None:
        return path.read_bytes()
    image = session.scans[scan].image
    voxels, header = read_volume(image, session.scans[scan].series)
    voxels = voxels[..., 0] if isinstance(image, ImageSet) else voxels
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        write_volume(path, voxels, header)
        return path.read_bytes()


def label_path(session: Session, scan: str, tag: str) -> Path | None:
    """The file of a label: ``final`` when a person finished it, ``original`` for a draft; None where there is none."""
    if tag == FINAL:
        own = session.files.label(scan)
        return own if own.is_file() else session.scans[scan].label
    draft = session.files.draft(scan)
    return draft if tag == ORIGINAL and draft.is_file() else None


def label_tags(session: Session, scan: str) -> dict[str, Path]:
    """The labels that a scan has, by tag."""
    found = {tag: label_path(session, scan, tag) for tag in (ORIGINAL, FINAL)}
    return {tag: path for tag, path in found.items() if path is not None}


def drawn_classes(session: Session, scan: str) -> dict[str, int]:
    """Name -> label id of the classes that the saved label has voxels of, by its provenance."""
    classes = peek_object(session.files.provenance(scan)).get("classes")
    drawn: dict[str, int] = {}
    for number, name in session.classes.items():
        content = classes.get(name) if isinstance(classes, dict) else None
        slices = content.get("axial_slices") if isinstance(content, dict) else None
        if isinstance(slices, dict) and any(isinstance(each, dict) and each.get("drawn") for each in slices.values()):
            drawn[name] = number
    return drawn


def present(label: np.ndarray, names: Mapping[str, int]) -> dict[str, int]:
    """Name -> label id of the classes that have a voxel.

    3D Slicer gives the first name to the smallest number in a file, and so on: a class without a voxel would move the
    names of those behind it.
    """
    numbers = {*np.unique(label).tolist()}
    return {name: number for name, number in sorted(names.items(), key=lambda item: item[1]) if number in numbers}


def label_content(label: np.ndarray, header: VolumeHeader, names: Mapping[str, int], ending: str) -> bytes:
    """A label (X, Y, Z) in the axis order of its scan, as a file of the format that belongs to a file name's ending.

    Raises:
        InputError: no such format.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"label{ending}"
        if ending == ".nii.gz":
            write_label(path, label, header)
        elif ending in _WRITERS:
            segmentation = Segmentation(np.ascontiguousarray(label), list(names), list(names.values()))
            get_format(_WRITERS[ending]).write(path, segmentation, header)
        else:
            known = ", ".join([".nii.gz", *_WRITERS])
            raise InputError(f"result_extension {ending[:20]!r}: labels are sent as {known}. Name one of these.")
        return path.read_bytes()


def save_final(session: Session, scan: str, path: Path, label_info: Sequence[Mapping[str, Any]] | None) -> None:
    """Take over a label that a viewer sends, as the finished work of a person.

    Args:
        session: of the scan.
        scan: its id.
        path: of the label's file.
        label_info: ``{"name": ...}`` of the file's numbers 1, 2, … in order, as 3D Slicer sends it; None where the
            numbers are the label ids of the session.

    Raises:
        InputError: a file that is no label of this scan, or a class that the session does not have.
    """
    native, _ = read_label(path, like=session.drawing(scan).header)
    renumbered = _renumbered(native, session.classes, label_info)
    with session.changing(scan) as drawing:
        wanted = np.zeros(drawing.shape, np.uint8, order="F")
        drawing.native(wanted)[...] = renumbered
        new, old = volume_to_slices(wanted, "axial"), drawing.slices("axial")
        changed = {index: new[index] for index in range(len(new)) if not np.array_equal(new[index], old[index])}
        if changed:
            drawing.paint("axial", changed, session.person)
    session.set_labelled(scan, True)


def _renumbered(
    label: np.ndarray, classes: Mapping[int, str], label_info: Sequence[Mapping[str, Any]] | None
) -> np.ndarray:
    found = [number for number in np.unique(label).tolist() if number]
    if label_info:
        names = [str(each.get("name", "")) for each in label_info]
        own = {class_key(name): number for number, name in classes.items()}
        ids = {place: own.get(class_key(name)) for place, name in enumerate(names, start=1)}
    else:
        names, ids = [], {number: number for number in classes}
    table = np.zeros(int(label.max(initial=0)) + 1, np.uint8)
    for number in found:
        target = ids.get(number)
        if target is None:
            what = repr(names[number - 1][:60]) if number <= len(names) else f"of the number {number}"
            known = ", ".join(classes.values())
            hint = did_you_mean(class_key(names[number - 1]), known.split(", ")) if number <= len(names) else ""
            raise InputError(f"label: the session has no class {what}.{hint} Its classes are {known}.")
        table[number] = target
    return table[label]


class Uploads:
    """Volumes that a viewer sent to have them segmented; the last two are kept in memory, and none on disk."""

    def __init__(self) -> None:
        self._drawings: OrderedDict[str, Drawing] = OrderedDict()

    def add(self, name: str, content: bytes) -> str:
        """Keep a volume; returns its id.

        Raises:
            InputError: a file of another format, or a damaged one.
        """
        ending = next((end for end in FORMATS if name.lower().endswith(end)), None)
        if ending is None:
            raise InputError(f"files: {json.dumps(name[-40:])} is no volume. Send one of {', '.join(FORMATS)}.")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"volume{ending}"
            path.write_bytes(content)
            voxels, header = read_volume(path)
            key = f"upload-{token_hex(8)}"
            self._drawings[key] = Drawing.of(key, voxels, _without_file(header))
        while len(self._drawings) > _MOST_UPLOADS:
            self._drawings.popitem(last=False)
        return key

    def get(self, key: str) -> Drawing | None:
        """The volume; None where there is none, or no more."""
        return self._drawings.get(key)

    def remove(self, key: str) -> Drawing | None:
        """Forget a volume, and return it."""
        return self._drawings.pop(key, None)


def _without_file(header: VolumeHeader) -> VolumeHeader:
    """The header for what is written later, when the file is gone."""
    return VolumeHeader(Path("volume.mha"), header.shape, header.affine)
