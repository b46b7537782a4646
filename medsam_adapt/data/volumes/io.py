"""Volumes on disk: a header is checked before any voxel is read, and a label is written with its image's geometry.

A volume is a file whose suffix is in `FORMATS`, a folder that holds a DICOM series, or one of an image without and one
with contrast (`image_pair`). Whatever is wrong with it ends
in an `InputError` that names it and the mend. The checks of values (finite images, whole-numbered labels) are the same
for every format; a further format is a module in `formats` with the three functions of `VolumeFormat`.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole
from medsam_adapt.data.volumes.formats.base import VolumeFormat, VolumeHeader
from medsam_adapt.data.volumes.formats.dicom import DICOM, holds_dicom, read_series_header
from medsam_adapt.data.volumes.formats.itk import ITK, SLICER_SUFFIXES
from medsam_adapt.data.volumes.formats.nifti import NIFTI
from medsam_adapt.data.volumes.formats.picture import PICTURE, read_mask
from medsam_adapt.data.volumes.same_grid import align

__all__ = [
    "FORMATS",
    "LARGEST_LABEL",
    "PICTURES",
    "VolumeFormat",
    "VolumeHeader",
    "case_stem",
    "from_ras",
    "is_slicer_label",
    "picture_files",
    "read_header",
    "read_label",
    "read_layers",
    "read_volume",
    "stored_label_header",
    "to_ras",
    "volume_files",
    "volume_stem",
    "without_label_ending",
    "write_label",
    "write_volume",
]

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


def read_header(path: str | Path, series: int | str | None = None) -> VolumeHeader:
    """Geometry of a volume, its files checked as far as that goes without decompressing them.

    Args:
        path: a file, or a folder that holds a DICOM series.
        series: the DICOM series' number, UID or description, where the folder holds several.

    Raises:
        InputError: no such file, an empty, truncated or corrupt one, a format that is not supported, not 3D (a
            trailing axis of length 1 is dropped), a geometry that cannot be, or a DICOM folder without one whole,
            evenly spaced series.
    """
    path = Path(path)
    chosen = _format_of(path)
    if chosen is DICOM:
        return read_series_header(path, series)
    if series is not None:
        raise InputError(f"{path} has no DICOM series to choose from; name a series for a DICOM folder only")
    return chosen.read_header(path)


def read_volume(path: str | Path, series: int | str | None = None) -> tuple[np.ndarray, VolumeHeader]:
    """An image: (X, Y, Z) float32 voxels in the file's own axis order, rescaled as its header says, and its header.

    A picture in colour gives (X, Y, 1, 3), and a pair of images (X, Y, Z, 3).

    Args:
        path: a file, or a folder that holds a DICOM series (X along its rows, Z along the normal of its slices).
        series: the DICOM series' number, UID or description, where the folder holds several.

    Raises:
        InputError: as `read_header`; also damaged voxel data, and NaN or infinite voxels.
    """
    header = read_header(path, series)
    if header.layers > 1:
        raise InputError(f"{header.path} is a segmentation in layers, not an image. Give the image that it belongs to.")
    stored, slope, intercept = _format_of(header.path).read_voxels(header)
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is told below
        voxels = stored.astype(np.float32)
        if (slope, intercept) != (1, 0):
            voxels *= np.float32(slope)
            voxels += np.float32(intercept)
    if not (finite := np.isfinite(voxels)).all():
        raise InputError(
            f"{header.path} has {finite.size - np.count_nonzero(finite)} NaN or infinite voxels; "
            "replace them, by the value of air for instance, and save it again"
        )
    return voxels, header


def read_label(path: str | Path, like: str | Path | VolumeHeader | None = None) -> tuple[np.ndarray, VolumeHeader]:
    """A label map: (X, Y, Z) uint8, or uint16 where a label is above 255, and its header; 0 is background.

    Args:
        path: a volume; or, where ``like`` is given, also a DICOM segmentation or structure set (.dcm).
        like: the image, or its header, on whose grid the label is wanted: a DICOM label is drawn there, and another
            one is turned to the image's axis order, or placed where it covers a part of it (`align`).

    Raises:
        InputError: as `read_header`; also damaged voxel data, values that are not whole numbers from 0 to 65535,
            a DICOM label whose structures overlap, and a label that does not fit the grid of ``like``.
    """
    if like is not None and not isinstance(like, VolumeHeader):
        like = read_header(like)
    if like is not None and Path(path).name.lower().endswith(".dcm"):
        return _read_dicom_label(Path(path), like)
    header = read_header(path)
    label = _read_label_map(header)
    if like is None:
        return label, header
    return align(like, header).place(label), VolumeHeader(header.path, like.shape, like.affine)


def _read_label_map(header: VolumeHeader) -> np.ndarray:
    """A label file's numbers (X, Y, Z) in its own axis order, checked; layers that share no voxel are joined."""
    layers = read_layers(header)
    if layers.ndim == 3:
        return layers
    used = np.count_nonzero(layers, axis=-1)
    numbers = [set(np.unique(layer)) - {0} for layer in np.moveaxis(layers, -1, 0)]
    if used.max(initial=0) > 1 or len(set().union(*numbers)) < sum(map(len, numbers)):
        raise InputError(
            f"{header.path}: segments overlap, or two have one number, which no label map holds. Name them as the "
            "classes are named, and they are read one by one."
        )
    return layers.max(axis=-1)


def read_layers(header: VolumeHeader) -> np.ndarray:
    """A label file's numbers, (X, Y, Z) or (X, Y, Z, layers) uint8 or uint16 in its own axis order, checked.

    Raises:
        InputError: as `read_label`.
    """
    kind = _format_of(header.path)
    values, slope, intercept = (read_mask(header), 1.0, 0.0) if kind is PICTURE else kind.read_voxels(header)
    if (slope, intercept) != (1, 0):
        values = values.astype(np.float64) * slope + intercept
    if values.dtype.kind == "f":
        whole = np.rint(values)
        off = ~(np.abs(values - whole) < 0.01)  # rescaling in float32 leaves a little over; NaN is off too
        if off.any():
            raise InputError(
                f"{header.path} is no label map, it holds {values[off][0]:g}; give whole numbers, and resample labels "
                "with nearest neighbour only"
            )
        values = whole
    lowest, highest = values.min(), values.max()
    if lowest < 0 or highest > LARGEST_LABEL:
        raise InputError(
            f"{header.path} holds the label {lowest if lowest < 0 else highest:g}; labels go from 0 (background) to "
            f"{LARGEST_LABEL}, so renumber them"
        )
    return values.astype(np.uint8 if highest <= 255 else np.uint16)


def _read_dicom_label(path: Path, like: VolumeHeader) -> tuple[np.ndarray, VolumeHeader]:
    from medsam_adapt.data.volumes.dicom_labels import read_dicom_labels  # which reads headers with this module

    label, _ = read_dicom_labels(path, like)
    if isinstance(label, dict):
        raise InputError(f"{path} has structures that overlap, which no label map holds; export each as its own mask")
    return label, VolumeHeader(path, like.shape, like.affine)


def write_label(path: str | Path, label: np.ndarray, like: str | Path | VolumeHeader, slope: float = 1.0) -> None:
    """Write a label map as .nii.gz, whole or not at all, on the grid of the image ``like``.

    Over a NIfTI image the sform, qform, their codes, the spacing and the units are the image's own, bit for bit; over
    one of another format, sform and qform are its affine, in mm. Free text and header extensions are left behind: they
    may name the patient.

    Args:
        path: ends in .nii.gz.
        label: (X, Y, Z) whole numbers from 0 to 65535 in the image's own axis order.
        like: the image's file, or its header (whose file is read again).
        slope: what readers multiply the stored numbers by, for a map that is no label, such as a probability.

    Raises:
        InputError: the file cannot be written.
        ValueError: the label does not fit the image or the type.
    """
    path, like = Path(path), like if isinstance(like, VolumeHeader) else read_header(like)
    if label.shape != like.shape:
        raise ValueError(f"the label's shape {label.shape} is not the image's {like.shape}")
    if not path.name.endswith(".nii.gz"):
        raise InputError(f"{path} cannot be written: labels are written as .nii.gz, so end its name so")
    if label.min() < 0 or label.max() > LARGEST_LABEL:
        raise ValueError(f"labels go from 0 to {LARGEST_LABEL}, got {label.min()} to {label.max()}")
    _write_nifti(path, label.astype(np.uint8 if label.max() <= 255 else np.uint16), like, slope)


def write_volume(path: str | Path, voxels: np.ndarray, like: VolumeHeader) -> None:
    """Write an image as .nii.gz on the grid of ``like``, without free text, as `write_label` does.

    Whole numbers that fit are stored as int16 and all others as float32, so that `read_volume` gives the same back.

    Args:
        path: ends in .nii.gz.
        voxels: (X, Y, Z) float32 in the axis order of ``like``.
        like: the header of the image's own file.

    Raises:
        InputError: the file cannot be written.
    """
    whole = np.array_equal(voxels, voxels.astype(np.int16)) if np.abs(voxels).max() < 1 << 15 else False
    _write_nifti(Path(path), voxels.astype(np.int16 if whole else np.float32), like)


def _write_nifti(path: Path, voxels: np.ndarray, like: VolumeHeader, slope: float = 1.0) -> None:
    header = _format_of(like.path).label_header(like)
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(voxels.dtype)
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = slope, 0
    for name in ("cal_min", "cal_max", "intent_code", "intent_p1", "intent_p2", "intent_p3"):
        header[name] = 0
    for name in {"intent_name", "descrip", "aux_file", "db_name", "data_type"} & set(header.keys()):
        header[name] = b""
    content = header.binaryblock.ljust(header.single_vox_offset, b"\0")
    content += voxels.astype(header.get_data_dtype()).tobytes(order="F")
    try:
        # No time and no name in the gzip header: the same label gives the same bytes.
        with written_whole(path) as temporary:
            temporary.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); choose another folder or free some space") from error


def stored_label_header(path: Path) -> nib.Nifti1Header:
    """The NIfTI header that a label on the grid of this volume starts from."""
    header = read_header(path)
    return _format_of(path).label_header(header)


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A view of (X, Y, Z) ``array`` with its axes permuted and flipped nearest to RAS, and the affine of that view."""
    orientation = orientations.io_orientation(affine)
    turned = orientations.apply_orientation(array, orientation)
    return turned, affine @ orientations.inv_ornt_aff(orientation, array.shape)


def from_ras(array_ras: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A view of ``array_ras`` in the axis order of the volume whose own ``affine`` is given: undoes `to_ras`."""
    back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.io_orientation(affine))
    return orientations.apply_orientation(array_ras, back)


def volume_stem(path: str | Path) -> str:
    """The file's name without its format's suffix: "case_1" for "case_1.nii.gz"; a DICOM folder's whole name."""
    path = Path(path)
    if path.is_dir():
        return path.absolute().name
    return path.name[: -len(_suffix_of(path))]


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
    folder = Path(folder)
    found = sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".")
        and (holds_dicom(path) if path.is_dir() else path.name.lower().endswith(tuple(FORMATS)) and path.is_file())
    )
    return found or ([folder] if holds_dicom(folder) else [])


def picture_files(folder: str | Path) -> list[Path]:
    """The PNGs and JPEGs directly in a folder, sorted by name; hidden ones are left out."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if not path.name.startswith(".") and path.name.lower().endswith(tuple(PICTURES)) and path.is_file()
    )


# ---------------------------------------------------------------------------------------------------------- formats


def _suffix_of(path: Path) -> str:
    for suffix in (*FORMATS, *PICTURES):
        if path.name.lower().endswith(suffix):
            return suffix
    mend = {
        ".dcm": "a DICOM series is read from its folder, so give that",
        ".zip": "unpack it and give the folder with the volumes",
    }.get(path.suffix.lower(), "convert it to one of these")
    raise InputError(f"{path} is of no supported format ({', '.join(FORMATS)}); {mend}")


def _format_of(path: Path) -> VolumeFormat:
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path")
    if path.is_dir():
        from medsam_adapt.data.volumes.image_pair import PAIR, pair_files  # which reads the two with this module

        if not holds_dicom(path):
            if pair_files(path):
                return PAIR
            raise InputError(
                f"{path} is a folder without DICOM files where a volume is wanted; give the file itself, or the "
                "folder that holds the DICOM files"
            )
        return DICOM
    chosen = {**FORMATS, **PICTURES}[_suffix_of(path)]
    if not path.is_file():
        raise InputError(f"{path} is no file; give the volume itself")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; copy or download it again")
    return chosen
