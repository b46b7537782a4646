"""Files that hold volumes: their formats by suffix, and those in a folder.

A further format is a module in `formats` with the three functions of `VolumeFormat`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.formats.base import VolumeFormat, VolumeHeader
from medsam_adapt.data.volumes.formats.dicom import holds_dicom
from medsam_adapt.data.volumes.formats.itk import ITK, SLICER_SUFFIXES
from medsam_adapt.data.volumes.formats.nifti import NIFTI
from medsam_adapt.data.volumes.formats.picture import PICTURE

_LABEL_ENDING = re.compile(r"([._-](seg|segmentation|labels?|labelmap|masks?))+$", re.IGNORECASE)
LARGEST_LABEL = 65535  # labels are written as uint8 or uint16
FORMATS: dict[str, VolumeFormat] = {
    **dict.fromkeys(SLICER_SUFFIXES, ITK),  # the longer suffix first
    ".nii.gz": NIFTI,
    ".nii": NIFTI,
    ".nrrd": ITK,
    ".nhdr": ITK,
    ".mha": ITK,
    ".mhd": ITK,
}
# Apart, since a PNG among volumes is a screenshot: only where pictures are asked for are they found.
PICTURES: dict[str, VolumeFormat] = {".png": PICTURE, ".jpg": PICTURE, ".jpeg": PICTURE}


def suffix_of(path: Path) -> str:
    """The suffix of a volume's or a picture's file name; raises InputError for any other file."""
    for suffix in (*FORMATS, *PICTURES):
        if path.name.lower().endswith(suffix):
            return suffix
    fix = {
        ".dcm": "Give the folder of the DICOM series.",
        ".zip": "Unpack it and give the folder with the volumes.",
    }.get(path.suffix.lower(), "Convert it to one of these.")
    listed = ", ".join(suffix for suffix in FORMATS if suffix not in SLICER_SUFFIXES)  # these end in .nrrd too
    raise InputError(f"{path}: its format is not supported ({listed}). {fix}")


def file_format(path: Path) -> VolumeFormat:
    """The format of a file, which must be there and not be empty.

    Raises:
        InputError: no such file, an empty one, or one of no supported format.
    """
    if not path.exists():
        raise InputError(f"{path}: it does not exist. Check the path.")
    chosen = {**FORMATS, **PICTURES}[suffix_of(path)]
    if not path.is_file():
        raise InputError(f"{path}: it is not a file. Give the volume itself.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: it is empty. Copy or download it again.")
    return chosen


def read_voxels(header: VolumeHeader, chosen: VolumeFormat) -> np.ndarray:
    """The voxels of an image as float32 in the file's own axis order, rescaled by its header.

    Raises:
        InputError: damaged voxel data, and NaN or infinite voxels.
    """
    stored, slope, intercept = chosen.read_voxels(header)
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is reported below
        voxels = stored.astype(np.float32)
        if (slope, intercept) != (1, 0):
            voxels *= np.float32(slope)
            voxels += np.float32(intercept)
    if (stored.dtype.kind == "f" or (slope, intercept) != (1, 0)) and not (finite := np.isfinite(voxels)).all():
        raise InputError(
            f"{header.path}: it has {finite.size - np.count_nonzero(finite)} NaN or infinite voxels. Replace them, by "
            "the value of air for instance, and save it again."
        )
    return voxels


def volume_stem(path: str | Path) -> str:
    """The file's name without its format's suffix: "case_1" for "case_1.nii.gz"; a DICOM folder's whole name."""
    path = Path(path)
    if path.is_dir():
        return path.absolute().name
    return path.name[: -len(suffix_of(path))]


def case_stem(path: str | Path) -> str:
    """`volume_stem` of a label without what marks it as one: "a" for a_seg.nii.gz, a.label.nii.gz and a-label.nrrd."""
    return without_label_ending(volume_stem(path))


def without_label_ending(stem: str) -> str:
    """A name without _seg, -label, .mask and the like at its end."""
    return _LABEL_ENDING.sub("", stem) or stem


def is_slicer_label(path: str | Path) -> bool:
    """Whether a file is named as 3D Slicer names its segmentations, so that it is no image."""
    return Path(path).name.lower().endswith(SLICER_SUFFIXES)


def volume_files(folder: str | Path) -> list[Path]:
    """The volumes directly in a folder, sorted by name: files, and folders that hold DICOM files.

    Hidden ones (such as macOS's ``._x.nii.gz``) are left out. A folder without any of these that holds DICOM files
    itself is the one volume.
    """
    folder, suffixes = Path(folder), tuple(FORMATS)
    with os.scandir(folder) as entries:  # which knows what is a folder without asking the disk for each entry
        found = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and (
                holds_dicom(folder / entry.name)
                if entry.is_dir()
                else entry.name.lower().endswith(suffixes) and entry.is_file()
            )
        ]
    return [folder / name for name in sorted(found)] or ([folder] if holds_dicom(folder) else [])


def picture_files(folder: str | Path) -> list[Path]:
    """The PNGs and JPEGs directly in a folder, sorted by name; hidden ones are left out."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if not path.name.startswith(".") and path.name.lower().endswith(tuple(PICTURES)) and path.is_file()
    )
