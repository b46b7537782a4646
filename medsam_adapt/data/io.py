"""Volumes on disk: a header is checked before any voxel is read, and a label is written with its image's geometry.

Whatever is wrong with a file ends in an `InputError` that names the file and the mend. The checks of values (finite
images, whole-numbered labels) are the same for every format; a further format is a module with the three functions of
`VolumeFormat` and its suffixes in `FORMATS`.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel import orientations

from medsam_adapt.errors import InputError
from medsam_adapt.files import written_whole

LARGEST_LABEL = 65535  # labels are written as uint8 or uint16
DEFLATE_RATIO = 1100  # deflate compresses by at most 1032, so a header that claims more voxels than this lies
MM_PER_UNIT = {1: 1e3, 3: 1e-3}  # NIfTI's codes for metres and micrometres; the others are, or are taken for, mm
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """Geometry of one 3D volume.

    Attributes:
        path: the file.
        shape: voxels along the three array axes.
        affine: (4, 4) float64, from voxel index to RAS+ millimetres.
        spacing: voxel size in mm along the three array axes (the lengths of the affine's columns).
        orientation: where each array axis grows towards, such as "RAS" or "LPS".
    """

    path: Path
    shape: tuple[int, int, int]
    affine: np.ndarray
    spacing: tuple[float, float, float] = field(init=False)
    orientation: str = field(init=False)

    def __post_init__(self) -> None:
        with np.errstate(all="ignore"):  # what overflows here is refused below
            lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
            volume = abs(np.linalg.det(self.affine[:3, :3] / lengths))  # 1 for perpendicular axes, 0 if two coincide
        believable = ((lengths > 1e-6) & (lengths < 1e6)).all()
        if not (np.isfinite(self.affine).all() and believable and volume > 1e-3):
            raise InputError(
                f"{self.path} has an affine that cannot be inverted, so its voxels have no place in the patient; "
                "export it again from its source"
            )
        object.__setattr__(self, "spacing", tuple(float(length) for length in lengths))
        object.__setattr__(self, "orientation", "".join(nib.aff2axcodes(self.affine)))


def read_header(path: str | Path) -> VolumeHeader:
    """Geometry of a volume, its file checked as far as that goes without decompressing it.

    Raises:
        InputError: no such file, an empty, truncated or corrupt one, a format that is not supported, not 3D (a
            trailing axis of length 1 is dropped), or a geometry that cannot be.
    """
    path = Path(path)
    return _format_of(path).read_header(path)


def read_volume(path: str | Path) -> tuple[np.ndarray, VolumeHeader]:
    """An image: (X, Y, Z) float32 voxels in the file's own axis order, rescaled as its header says, and its header.

    Raises:
        InputError: as `read_header`; also damaged voxel data, and NaN or infinite voxels.
    """
    header = read_header(path)
    stored, slope, intercept = _format_of(header.path).read_voxels(header.path)
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


def read_label(path: str | Path) -> tuple[np.ndarray, VolumeHeader]:
    """A label map: (X, Y, Z) uint8, or uint16 where a label is above 255, and its header; 0 is background.

    Raises:
        InputError: as `read_header`; also damaged voxel data, and values that are not whole numbers from 0 to 65535.
    """
    header = read_header(path)
    values, slope, intercept = _format_of(header.path).read_voxels(header.path)
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
    return values.astype(np.uint8 if highest <= 255 else np.uint16), header


def write_label(path: str | Path, label: np.ndarray, like: str | Path | VolumeHeader) -> None:
    """Write a label map as .nii.gz, whole or not at all, on the grid of the image ``like``.

    The sform, qform, their codes, the spacing and the units are the image's own, bit for bit. Free text and header
    extensions are left behind: they may name the patient.

    Args:
        path: ends in .nii.gz.
        label: (X, Y, Z) whole numbers from 0 to 65535 in the image's own axis order.
        like: the image's file, or its header (whose file is read again).

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
    header = _format_of(like.path).label_header(like.path)
    header.set_data_shape(label.shape)
    header.set_data_dtype(np.uint8 if label.max() <= 255 else np.uint16)
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1, 0
    for name in ("cal_min", "cal_max", "intent_code", "intent_p1", "intent_p2", "intent_p3"):
        header[name] = 0
    for name in {"intent_name", "descrip", "aux_file", "db_name", "data_type"} & set(header.keys()):
        header[name] = b""
    content = header.binaryblock.ljust(header.single_vox_offset, b"\0")
    content += label.astype(header.get_data_dtype()).tobytes(order="F")
    try:
        # No time and no name in the gzip header: the same label gives the same bytes.
        with written_whole(path) as temporary:
            temporary.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); choose another folder or free some space") from error


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
    """The file's name without its format's suffix: "case_1" for "case_1.nii.gz"."""
    name = Path(path).name
    return name[: -len(_suffix_of(Path(path)))]


def volume_files(folder: str | Path) -> list[Path]:
    """The volumes directly in a folder, sorted by name; hidden files (such as macOS's ``._x.nii.gz``) are left out."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if not path.name.startswith(".") and path.name.lower().endswith(tuple(FORMATS)) and path.is_file()
    )


# ---------------------------------------------------------------------------------------------------------- formats


@dataclass(frozen=True)
class VolumeFormat:
    """How the files of one format are read.

    Attributes:
        read_header: the checked geometry of a file.
        read_voxels: the voxels as stored, (X, Y, Z) of any real dtype, and the slope and intercept to rescale them by.
        label_header: the NIfTI header that a label on this file's grid starts from.
    """

    read_header: Callable[[Path], VolumeHeader]
    read_voxels: Callable[[Path], tuple[np.ndarray, float, float]]
    label_header: Callable[[Path], nib.Nifti1Header]


def _suffix_of(path: Path) -> str:
    for suffix in FORMATS:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"{path} is of no supported format ({', '.join(FORMATS)}); convert it to one of these")


def _format_of(path: Path) -> VolumeFormat:
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path")
    if not path.is_file():
        raise InputError(f"{path} is a folder where a volume is wanted; give the file itself")
    chosen = FORMATS[_suffix_of(path)]
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; copy or download it again")
    return chosen


# ------------------------------------------------------------------------------------------------------------ NIfTI


def _unreadable(path: Path, why: object) -> InputError:
    return InputError(f"{path} cannot be read, truncated or damaged perhaps ({why}); copy or download it again")


def _open_nifti(path: Path) -> BinaryIO:
    compressed = path.name.lower().endswith(".gz")
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    if compressed != is_gzip:
        right = ".nii.gz" if is_gzip else ".nii"
        state = "is gzip-compressed" if is_gzip else "is not gzip-compressed"
        raise InputError(f"{path} {state}, which its name denies; rename it to end in {right} or download it again")
    return gzip.open(path) if compressed else path.open("rb")  # type: ignore[return-value]


def _read_bytes(file: BinaryIO, path: Path, offset: int, count: int) -> bytes:
    """``count`` bytes from ``offset``, reading on to the end of the file, where gzip keeps its checksum."""
    try:
        file.read(offset)
        content = file.read(count)
        while file.read(CHUNK):
            pass
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    if len(content) < count:
        raise _unreadable(path, "it ends too early")
    return content


def _nifti_fields(path: Path) -> nib.Nifti1Header:
    """The header's raw fields, NIfTI-1 or 2 of either byte order, the magic checked and nothing else."""
    try:
        with _open_nifti(path) as file:
            block = file.read(540)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    for kind, size, magic, at in ((nib.Nifti1Header, 348, b"n+1\0", 344), (nib.Nifti2Header, 540, b"n+2\0", 4)):
        for endianness, order in (("<", "little"), (">", "big")):
            if block[:4] == size.to_bytes(4, order) and len(block) >= size and block[at : at + 4] == magic:  # type: ignore[arg-type]
                return kind(block[:size], endianness=endianness, check=False)
    raise InputError(f"{path} is not a NIfTI volume, whatever its name says; export it as .nii.gz again")


def _nifti_layout(path: Path, fields: nib.Nifti1Header) -> tuple[tuple[int, int, int], np.dtype, int]:
    """Shape, voxel type, and offset of the voxels in bytes, or the sentence that says what cannot be."""
    dims = int(fields["dim"][0])
    shape = tuple(int(length) for length in fields["dim"][1 : dims + 1])
    if not 1 <= dims <= 7 or min(shape) < 1:
        raise InputError(f"{path} has a corrupt header (dimensions {fields['dim'].tolist()}); export it again")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        size = " × ".join(map(str, shape))
        raise InputError(f"{path} is {len(shape)}D ({size}), not 3D; give each volume in a file of its own")
    try:
        dtype, offset = fields.get_data_dtype(), fields.get_data_offset()
    except (nib.spatialimages.HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise InputError(f"{path} has a corrupt header ({error}); export it again") from error
    if dtype.kind not in "iuf":
        raise InputError(f"{path} holds colour or complex voxels; give one real number a voxel")
    if not fields.sizeof_hdr <= offset < 1 << 31:
        raise InputError(f"{path} has a corrupt header (voxels from byte {offset}); export it again")
    return shape, dtype, offset


def _check_nifti_size(path: Path, needed: int) -> None:
    """Refuse a file too small for the ``needed`` bytes, decompressing it only where its last bytes look wrong."""
    held = path.stat().st_size
    compressed = path.name.lower().endswith(".gz")
    if needed > held * (DEFLATE_RATIO if compressed else 1):
        raise InputError(
            f"{path} is truncated or corrupt: its header claims {needed:,} bytes, more than a file of {held:,} can "
            "hold; copy or download it again"
        )
    if compressed:
        with path.open("rb") as file:
            file.seek(-4, 2)
            ends_whole = int.from_bytes(file.read(4), "little") == needed % 2**32  # gzip ends with its length
        if not ends_whole:  # cut off, or in several parts, as parallel compressors write: only reading it tells
            with _open_nifti(path) as stream:
                _read_bytes(stream, path, 0, needed)


def _read_nifti_header(path: Path) -> VolumeHeader:
    fields = _nifti_fields(path)
    shape, dtype, offset = _nifti_layout(path, fields)
    spacing = fields["pixdim"][1:4]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        listed = ", ".join(f"{length:g}" for length in spacing)
        raise InputError(f"{path} has an impossible voxel spacing ({listed}); correct it or export the volume again")
    try:
        affine = np.array(fields.get_best_affine(), dtype=np.float64)
    except (nib.spatialimages.HeaderDataError, ValueError) as error:
        raise InputError(f"{path} has a corrupt orientation ({error}); export it again from its source") from error
    affine[:3] *= MM_PER_UNIT.get(int(fields["xyzt_units"]) & 7, 1.0)
    affine.setflags(write=False)
    header = VolumeHeader(path, shape, affine)
    _check_nifti_size(path, offset + math.prod(shape) * dtype.itemsize)
    return header


def _read_nifti_voxels(path: Path) -> tuple[np.ndarray, float, float]:
    fields = _nifti_fields(path)
    shape, dtype, offset = _nifti_layout(path, fields)
    try:
        slope, intercept = fields.get_slope_inter()
    except nib.spatialimages.HeaderDataError as error:
        raise InputError(f"{path} has a corrupt header ({error}); export it again") from error
    with _open_nifti(path) as file:
        content = _read_bytes(file, path, offset, math.prod(shape) * dtype.itemsize)
    voxels = np.frombuffer(content, dtype).reshape(shape, order="F")
    return voxels, 1.0 if slope is None else slope, intercept or 0.0


_NIFTI = VolumeFormat(_read_nifti_header, _read_nifti_voxels, _nifti_fields)
FORMATS: dict[str, VolumeFormat] = {".nii.gz": _NIFTI, ".nii": _NIFTI}  # the longer suffix first
