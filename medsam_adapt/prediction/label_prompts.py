"""Labels from which prompts are taken: label maps, DICOM segmentations and structure sets, or a mask a structure.

Structures are matched by name, whatever their ids in the labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.json_files import read_json
from medsam_adapt.core.text import class_key, counted
from medsam_adapt.data.datasets.layouts import class_map
from medsam_adapt.data.volumes.dicom_labels import read_dicom_labels, structure_names
from medsam_adapt.data.volumes.io import (
    VolumeHeader,
    is_slicer_label,
    read_header,
    read_label,
    volume_files,
    volume_stem,
    without_label_ending,
)
from medsam_adapt.data.volumes.same_grid import check_same_grid
from medsam_adapt.data.volumes.slicer_labels import segments_of
from medsam_adapt.prediction.plan import PlannedCase
from medsam_adapt.runs.record import RunRecord

_ENDINGS = ("_0000", "_rtstruct")


class PromptsFromLabels:
    """The label of each case, found by its name; classes by name where the label or a labels.json gives names.

    A label is a label map, a DICOM segmentation or structure set (.dcm), or a folder with a mask for each structure,
    named after it, so that structures may overlap. A structure that a case does not have gets no prompt.

    Args:
        source: a label file for one case, or a folder of labels named as the images, or with an ending such as _seg.
        cases: what is to be segmented.
        record: of the run.

    Raises:
        InputError: all problems: a case without a label, a label on another grid, a class that is not in labels.json,
            a label without any of the run's structures.
    """

    def __init__(self, source: Path, cases: Sequence[PlannedCase], record: RunRecord) -> None:
        if not source.exists():
            raise InputError(f"{source}: it does not exist. Give --prompts-from a label file or a folder of them.")
        if not source.is_dir() and len(cases) > 1:
            raise InputError(
                f"{source}: it is one label, but there are {counted(len(cases), 'volume')}. Give a folder of labels."
            )
        self.record = record
        self.ids = _ids_of(source, record)
        files = _labels_in(source) if source.is_dir() else {}
        self.files: dict[str, Path] = {}
        problems = []
        for case in cases:
            path = files.get(_plain(case.name)) if source.is_dir() else source
            if path is None:
                problems.append(f"{source}: it has no label for {case.name}. Add one of that name.")
                continue
            try:
                self._check(path, case.header)
            except InputError as error:
                problems.append(str(error))
            self.files[case.name] = path
        if problems:
            raise problems_error(problems)

    def __call__(self, case: PlannedCase, image: np.ndarray) -> np.ndarray:
        """Label ids of the run (X, Y, Z), or masks (C, X, Y, Z)."""
        path, record = self.files[case.name], self.record
        if path.is_dir():
            files = _masks_in(path)
            return self._stacked(
                {key: read_label(file, case.header)[0] > 0 for key, file in files.items()}, case.header
            )
        if not _is_named(path):
            return translate(read_label(path, case.header)[0], self.ids, record.label_ids)
        ids = ids_by_name(record.class_names, record.label_ids)
        label, names = read_dicom_labels(path, case.header, lambda name: class_key(name) in ids)
        if isinstance(label, dict):
            masks: dict[str, np.ndarray] = {}
            for name, mask in label.items():
                key = class_key(name)
                masks[key] = masks[key] | mask if key in masks else mask
            return self._stacked(masks, case.header)
        return translate(label, list(names), [ids[class_key(name)] for name in names.values()])

    def _stacked(self, masks: Mapping[str, np.ndarray], header: VolumeHeader) -> np.ndarray:
        """(C, X, Y, Z) in the order of the run's classes."""
        nothing = np.zeros(header.shape, dtype=bool)
        return np.stack([masks.get(class_key(name), nothing) for name in self.record.class_names])

    def _check(self, path: Path, header: VolumeHeader) -> None:
        """Raise an InputError for a label that is not on the image's grid, or has none of the run's structures."""
        if _is_named(path):
            keys = {class_key(name) for name in structure_names(path).values()}
        elif path.is_dir():
            masks = _masks_in(path)
            for mask in masks.values():
                check_same_grid(header, read_header(mask))
            keys = {*masks}
        else:
            check_same_grid(header, read_header(path))
            return
        if not keys & {class_key(name) for name in self.record.class_names}:
            names = ", ".join(self.record.class_names)
            raise InputError(f"{path}: it has none of the run's structures ({names}). Correct the names there.")


def ids_by_name(names: Sequence[str], label_ids: Sequence[int]) -> dict[str, int]:
    """Label id of each class by its key."""
    return dict(zip(map(class_key, names), label_ids, strict=True))


def translate(label: np.ndarray, theirs: Sequence[int], ours: Sequence[int]) -> np.ndarray:
    """The label with the ids ``ours`` for ``theirs``, and background for all others."""
    table = np.zeros(max(int(label.max(initial=0)), *theirs) + 1, dtype=np.uint16)
    table[list(theirs)] = ours
    return table[label]


def _ids_of(source: Path, record: RunRecord) -> list[int]:
    """The ids of the run's classes in the label files: by the names in a labels.json, else the run's own."""
    folder = source if source.is_dir() else source.parent
    names = next((path for path in (folder / "labels.json", folder.parent / "labels.json") if path.is_file()), None)
    if names is None:
        return record.label_ids
    found: Mapping[int, str] = class_map(read_json(names), names)
    ids = ids_by_name(list(found.values()), list(found))
    missing = [name for name in record.class_names if class_key(name) not in ids]
    if missing:
        raise InputError(f"{names}: it has no class '{missing[0]}', which the run segments. Correct the names there.")
    return [ids[class_key(name)] for name in record.class_names]


def _plain(stem: str) -> str:
    """A case's name, of an image or a label."""
    for ending in _ENDINGS:
        stem = stem.removesuffix(ending)
    return without_label_ending(stem)


def _is_named(path: Path) -> bool:
    """Whether a file names its structures: DICOM's, and 3D Slicer's where it describes segments."""
    if not path.is_file():
        return False
    return bool(segments_of(path)) if is_slicer_label(path) else path.suffix.lower() == ".dcm"


def _labels_in(folder: Path) -> dict[str, Path]:
    """Labels directly in a folder by the name of their case: files, and folders of masks."""
    found = {_plain(path.name): path for path in folder.iterdir() if path.is_dir() and _masks_in(path)}
    found |= {_plain(path.stem): path for path in folder.iterdir() if _is_named(path)}
    return found | {_plain(volume_stem(path)): path for path in volume_files(folder) if path.is_file()}


def _masks_in(folder: Path) -> dict[str, Path]:
    """The masks in a folder by the key of their structure."""
    return {class_key(volume_stem(path)): path for path in volume_files(folder) if path.is_file()}
