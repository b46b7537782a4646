"""DICOM labels as the label files that every other part reads: made once, kept under ``MEDSAM_ADAPT_HOME``.

Structures have numbers of their own in every file, so that only their names tell what is the same class in two
patients; here they get the data set's ids.

    labels/<32 hexadecimal digits>/label.nii.gz      structures that do not overlap
                                   <class id>.nii.gz  a mask for each of those that do
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medsam_adapt.core.cache import labels_folder, made_in_cache
from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.files import file_sha256, is_disk_full
from medsam_adapt.core.text import class_key
from medsam_adapt.data.volumes.dicom_labels import read_dicom_labels
from medsam_adapt.data.volumes.io import LARGEST_LABEL, VolumeHeader, read_header, write_label

_FORMAT = 1  # part of the key: raise it when the written files change their meaning


def converted_label(
    label: Path, image: Path, classes: Mapping[int, str], series: str | None = None
) -> Path | dict[int, Path]:
    """A label map's file, or class id -> mask where structures overlap, for a SEG or RTSTRUCT file.

    Args:
        label: the file.
        image: the folder of its series.
        classes: label id -> name; structures of other names are left out.
        series: which series of that folder, where it holds several.

    Raises:
        InputError: as `read_dicom_labels`; the folder cannot be written to.
        RunError: the disk is full.
    """
    folder = labels_folder() / _key(label, image, classes, series)
    if not folder.is_dir():
        try:
            _make(label, read_header(image, series), classes, folder)
        except OSError as error:
            if is_disk_full(error):
                raise RunError(f"{folder} could not take the labels of {label}: free some space") from error
            raise InputError(
                f"{folder} cannot be written to ({error.strerror}); name another folder in MEDSAM_ADAPT_HOME"
            ) from error
    if (whole := folder / "label.nii.gz").is_file():
        return whole
    return {int(path.name.partition(".")[0]): path for path in sorted(folder.glob("*.nii.gz"))}


def _key(label: Path, image: Path, classes: Mapping[int, str], series: str | None) -> str:
    """The label's bytes, and names, sizes and times of the image's files: whole series would take long to hash."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in image.iterdir()]
    description = [_FORMAT, file_sha256(label), str(image.resolve()), sorted(stats), sorted(classes.items())]
    description += [] if series is None else [series]
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:32]


def _make(label: Path, header: VolumeHeader, classes: Mapping[int, str], folder: Path) -> None:
    """Convert, and write the folder as a whole."""
    structures, names = read_dicom_labels(label, header)
    ids = {class_key(name): class_id for class_id, name in classes.items()}
    wanted = {number: ids[class_key(name)] for number, name in names.items() if class_key(name) in ids}
    files: dict[str, np.ndarray] = {}
    if isinstance(structures, dict) and not _overlap(structures, names, wanted):
        whole = np.zeros(header.shape, dtype=np.uint16)
        for number, class_id in wanted.items():
            whole[structures[names[number]]] = class_id
        files["label"] = whole
    elif isinstance(structures, dict):
        files = {str(class_id): structures[names[number]].astype(np.uint8) for number, class_id in wanted.items()}
    else:
        table = np.zeros(LARGEST_LABEL + 1, dtype=np.uint16)
        table[[*wanted]] = [*wanted.values()]
        files["label"] = table[structures]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with made_in_cache(folder) as temporary:
        for name, content in files.items():
            write_label(temporary / f"{name}.nii.gz", content, header)


def _overlap(structures: Mapping[str, np.ndarray], names: Mapping[int, str], wanted: Mapping[int, int]) -> bool:
    """Whether two of the wanted structures share a voxel."""
    taken: np.ndarray | None = None
    for number in wanted:
        mask = structures[names[number]]
        if taken is None:
            taken = np.zeros(mask.shape, dtype=bool)
        if (taken & mask).any():
            return True
        taken |= mask
    return False
