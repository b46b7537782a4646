"""NIfTI (.nii.gz, .nii): versions 1 and 2 of either byte order, the header checked without decompressing the voxels."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.gzip_files import gzip_errors, open_gzip
from medsam_adapt.core.lazy import lazy_module
from medsam_adapt.data.volumes.formats.base import (
    CHUNK,
    DEFLATE_RATIO,
    VolumeFormat,
    VolumeHeader,
    check_size,
    listed_size,
    unreadable,
)

if TYPE_CHECKING:
    import nibabel as nib
else:
    nib = lazy_module("nibabel")

_FORMS_AGREE = 0.1  # of the smallest voxel side: what sform and qform may be apart
_FIX_GEOMETRY = "Find out which of the two is right, and store that one as sform and qform, with codes above 0."
_UNITS = {1: "m", 3: "µm"}
_MM_PER_UNIT = {1: 1e3, 3: 1e-3}  # NIfTI's codes for metres and micrometres; the others are, or are taken for, mm


def _open_nifti(path: Path) -> BinaryIO:
    compressed = path.name.lower().endswith(".gz")
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    if compressed != is_gzip:
        right = ".nii.gz" if is_gzip else ".nii"
        state = "is gzip-compressed" if is_gzip else "is not gzip-compressed"
        raise InputError(f"{path}: it {state}, contrary to its name. Rename it to end in {right} or download it again.")
    return open_gzip(path) if compressed else path.open("rb")


def _read_bytes(file: BinaryIO, path: Path, offset: int, count: int) -> bytes:
    """``count`` bytes from ``offset``, reading on to the end of the file, where gzip keeps its checksum."""
    try:
        file.read(offset)
        content = file.read(count)
        while file.read(CHUNK):
            pass
    except gzip_errors() as error:
        raise unreadable(path, error) from error
    if len(content) < count:
        raise unreadable(path, "it ends too early")
    return content


def _nifti_fields(path: Path) -> nib.Nifti1Header:
    """The header's raw fields, NIfTI-1 or 2 of either byte order, the magic checked and nothing else."""
    try:
        with _open_nifti(path) as file:
            block = file.read(540)
    except gzip_errors() as error:
        raise unreadable(path, error) from error
    for kind, size, magic, at in ((nib.Nifti1Header, 348, b"n+1\0", 344), (nib.Nifti2Header, 540, b"n+2\0", 4)):
        for endianness, order in (("<", "little"), (">", "big")):
            if block[:4] == size.to_bytes(4, order) and len(block) >= size and block[at : at + 4] == magic:  # type: ignore[arg-type]
                return kind(block[:size], endianness=endianness, check=False)
    raise InputError(f"{path}: it is not a NIfTI volume, despite its name. Export it as .nii.gz again.")


def _nifti_layout(path: Path, fields: nib.Nifti1Header, images: bool = False) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, voxel type, and offset of the voxels in bytes, or the sentence that states what cannot be.

    With ``images`` a fourth axis may hold the images of a case, and the shape always has one.
    """
    dims = int(fields["dim"][0])
    shape = tuple(int(length) for length in fields["dim"][1 : dims + 1])
    if not 1 <= dims <= 7 or min(shape) < 1:
        raise InputError(f"{path}: it has a corrupt header (dimensions {fields['dim'].tolist()}). Export it again.")
    if images and len(shape) == 5 and shape[3] == 1:  # a vector image by the standard: its axis is the fifth
        shape = (*shape[:3], shape[4])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if images and len(shape) in (3, 4):
        shape = (*shape, 1) if len(shape) == 3 else shape
    elif len(shape) != 3:
        size = listed_size(shape)
        raise InputError(
            f"{path}: it is {len(shape)}D ({size}), not 3D. Give each volume in a separate file, or name the images of "
            "a case in dataset.json."
        )
    try:
        dtype, offset = fields.get_data_dtype(), fields.get_data_offset()
    except (nib.spatialimages.HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: it has a corrupt header ({error}). Export it again.") from error
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: it holds colour or complex voxels. Save one real number per voxel.")
    if not fields.sizeof_hdr <= offset < 1 << 31:
        raise InputError(f"{path}: it has a corrupt header (voxels from byte {offset}). Export it again.")
    return shape, dtype, offset


def _check_nifti_size(path: Path, needed: int) -> None:
    """Refuse a file too small for the ``needed`` bytes, decompressing it only where its last bytes look wrong."""
    held = path.stat().st_size
    compressed = path.name.lower().endswith(".gz")
    check_size(path, needed, held, DEFLATE_RATIO if compressed else 1)
    if compressed:
        with path.open("rb") as file:
            file.seek(-4, 2)
            ends_whole = int.from_bytes(file.read(4), "little") == needed % 2**32  # gzip ends with its length
        if not ends_whole:  # cut off, or in several parts, as parallel compressors write: only reading it shows
            with _open_nifti(path) as stream:
                _read_bytes(stream, path, 0, needed)


def _read_nifti_header(path: Path, images: bool = False) -> VolumeHeader:
    fields = _nifti_fields(path)
    stored, dtype, offset = _nifti_layout(path, fields, images)
    shape = (stored[0], stored[1], stored[2])
    spacing = fields["pixdim"][1:4]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        listed = ", ".join(f"{length:g}" for length in spacing)
        raise InputError(f"{path}: its voxel spacing is impossible ({listed}). Correct it or export the volume again.")
    try:
        affine = np.array(fields.get_best_affine(), dtype=np.float64)
    except (nib.spatialimages.HeaderDataError, ValueError) as error:
        raise InputError(f"{path}: it has a corrupt orientation ({error}). Export it again from its source.") from error
    others, contradiction = _other_geometry(fields, shape, affine)
    to_mm = np.array([*[_MM_PER_UNIT.get(int(fields["xyzt_units"]) & 7, 1.0)] * 3, 1.0])[:, None]
    affine *= to_mm
    affine.setflags(write=False)
    header = VolumeHeader(
        path,
        shape,
        affine,
        other_affines={phrase: other * to_mm for phrase, other in others.items()},
        contradiction=contradiction,
        notes=(f"{path} {contradiction}. {_FIX_GEOMETRY}",) if contradiction else (),
    )
    _check_nifti_size(path, offset + math.prod(stored) * dtype.itemsize)
    return header


def _other_geometry(
    fields: nib.Nifti1Header, shape: tuple[int, int, int], affine: np.ndarray
) -> tuple[dict[str, np.ndarray], str]:
    """Another affine that the header states or that ITK reads from it, and what is contradictory.

    nibabel takes the sform wherever its code is above 0, and so does this package. ITK 5.4 does so only where the code
    is 1 (scanner) and the axes are perpendicular, or where there is no qform; this was measured with SimpleITK 2.5.7.
    """
    sform_code, qform_code = int(fields["sform_code"]), int(fields["qform_code"])
    if sform_code <= 0 and qform_code <= 0:
        across, along, up = fields["pixdim"][1:4].astype(np.float64)
        plain = np.diag([-across, -along, up, 1.0])
        return {"the place that ITK (SimpleITK, 3D Slicer, ITK-SNAP) gives such a file": plain}, (
            "has no orientation (its sform and qform codes are 0): nibabel, as used here, and ITK place it "
            "differently, with front and back exchanged"
        )
    if sform_code <= 0 or qform_code <= 0:
        return {}, ""
    try:
        qform = np.array(fields.get_qform(coded=False), dtype=np.float64)
    except (nib.spatialimages.HeaderDataError, ValueError):  # nothing that could be followed
        return {}, ""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, length - 1) for length in shape))])
    moved = corners @ (affine - qform).T
    apart = float(np.linalg.norm(moved[:, :3], axis=1).max())
    if not apart > _FORMS_AGREE * float(fields["pixdim"][1:4].min()):
        return {}, ""
    mirrored = np.linalg.det(affine[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0
    by_itk = "ITK (SimpleITK, 3D Slicer, ITK-SNAP)" if _itk_takes_qform(fields, affine) else "MITK and ITK before 5.2"
    return {f"the qform, which is what {by_itk} uses": qform}, (
        f"has an sform (code {sform_code}) and a qform (code {qform_code}) that disagree by up to {apart:.3g} "
        f"{_UNITS.get(int(fields['xyzt_units']) & 7, 'mm')}{', one a mirror image of the other' * bool(mirrored)}: "
        f"nibabel, as used here, takes the sform, and {by_itk} the qform"
    )


def _itk_takes_qform(fields: nib.Nifti1Header, sform: np.ndarray) -> bool:
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    perpendicular = np.allclose((sform[:3, :3] / lengths).T @ (sform[:3, :3] / lengths), np.eye(3), atol=1e-4)
    as_spaced = np.allclose(lengths, fields["pixdim"][1:4], rtol=1e-3)
    return not (int(fields["sform_code"]) == 1 and perpendicular and as_spaced)


def images_in(path: Path) -> int:
    """How many images a 4D file holds, 1 for a volume; raises InputError as `NIFTI_4D`."""
    return _nifti_layout(path, _nifti_fields(path), images=True)[0][3]


def _read_nifti_voxels(header: VolumeHeader, images: bool = False) -> tuple[np.ndarray, float, float]:
    path = header.path
    fields = _nifti_fields(path)
    shape, dtype, offset = _nifti_layout(path, fields, images)
    try:
        slope, intercept = fields.get_slope_inter()
    except nib.spatialimages.HeaderDataError as error:
        raise InputError(f"{path}: it has a corrupt header ({error}). Export it again.") from error
    with _open_nifti(path) as file:
        content = _read_bytes(file, path, offset, math.prod(shape) * dtype.itemsize)
    voxels = np.frombuffer(content, dtype).reshape(shape, order="F")
    return voxels, 1.0 if slope is None else slope, intercept or 0.0


NIFTI = VolumeFormat(_read_nifti_header, _read_nifti_voxels, lambda header: _nifti_fields(header.path))
# The images of a case in one file: voxels (X, Y, Z, images).
NIFTI_4D = VolumeFormat(
    partial(_read_nifti_header, images=True), partial(_read_nifti_voxels, images=True), NIFTI.label_header
)
