"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd), read by SimpleITK, their geometry turned from LPS to RAS.

The header is checked first: ITK sets memory aside for whatever a header claims. Which file holds the voxels, and
whether they are compressed, is read from the header's text, since ITK reports neither.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted
from medsam_adapt.data.volumes.formats.base import (
    DEFLATE_RATIO,
    LPS_TO_RAS,
    VolumeFormat,
    VolumeHeader,
    check_size,
    listed_size,
    plain_label_header,
    unreadable,
)

if TYPE_CHECKING:
    import SimpleITK

SLICER_SUFFIXES = (".seg.nrrd", ".seg.nhdr")  # 3D Slicer's segmentations, whose first axis may be layers
_HEADER_BYTES = 1 << 16  # more text than any header of these formats has
_BLOCK = 1 << 16  # bytes that become 66 MB at most
_LONGEST_FIELD = 500  # letters of a header's line; ITK crashes from about 900
_LARGEST_AXES = 6  # ITK sets arrays of the claimed number of axes aside


@dataclass(frozen=True)
class _Voxels:
    """Where the voxels are by the header: the file, the byte that they begin at, and whether compressed."""

    file: Path
    begin: int
    compressed: bool


def _read_header(path: Path) -> VolumeHeader:
    voxels = _voxels_of(path)
    reader = _information(path)
    shape = _shape(path, reader)
    layers = reader.GetNumberOfComponents() if path.name.lower().endswith(SLICER_SUFFIXES) else 1
    _check_kind(path, reader, layers)
    needed, held = math.prod(shape) * layers * _itemsize(reader), voxels.file.stat().st_size - voxels.begin
    check_size(path, needed, held, DEFLATE_RATIO if voxels.compressed else 1)
    is_cropped = reader.HasMetaDataKey("Segmentation_ReferenceImageExtentOffset")
    return VolumeHeader(path, shape, _affine(path, reader), is_cropped=is_cropped, layers=layers)


def _read_voxels(header: VolumeHeader) -> tuple[np.ndarray, float, float]:
    import SimpleITK as sitk

    if _is_metaimage(header.path):
        _check_deflated(header.path, _voxels_of(header.path))
    try:
        with quiet_itk():
            image = sitk.ReadImage(str(header.path))
    except RuntimeError as error:
        raise unreadable(header.path, _reason(error)) from error
    array = sitk.GetArrayFromImage(image)
    if header.layers > 1:
        return array.reshape((*header.shape[::-1], header.layers)).transpose(2, 1, 0, 3), 1.0, 0.0
    return array.reshape(header.shape[::-1]).transpose(), 1.0, 0.0


def _check_deflated(path: Path, voxels: _Voxels) -> None:
    """Refuse damaged compressed voxels, of which ITK makes a volume of noise without a word."""
    if not voxels.compressed:
        return
    stream = zlib.decompressobj(wbits=47)  # zlib or gzip
    try:
        with voxels.file.open("rb") as file:
            file.seek(voxels.begin)
            while not stream.eof and (block := file.read(_BLOCK)):
                stream.decompress(block)
    except (OSError, zlib.error) as error:
        raise unreadable(path, error) from error
    if not stream.eof:
        raise unreadable(path, "it ends too early")


ITK = VolumeFormat(_read_header, _read_voxels, plain_label_header)


@contextmanager
def quiet_itk() -> Iterator[None]:
    """ITK's warnings off for the block: they go past Python, and may quote the patient data of a header.

    Its reader of MetaImage has no switch for them, so the process's standard error leads nowhere meanwhile.
    """
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


# ------------------------------------------------------------------------------------------------ the header's text


def _is_metaimage(path: Path) -> bool:
    return path.suffix.lower() in (".mha", ".mhd")


def _voxels_of(path: Path) -> _Voxels:
    fields, length = _text_fields(path)
    if _is_metaimage(path):
        name, compressed = fields["elementdatafile"], fields.get("compresseddata", "").lower() == "true"
        beside = None if name.upper() == "LOCAL" else name
        skipped = fields.get("headersize", "")
    else:
        beside = fields.get("data file", fields.get("datafile"))
        compressed = fields.get("encoding", "raw").lower() != "raw"
        skipped = fields.get("byte skip", fields.get("byteskip", ""))
    begin = int(skipped[:18]) if skipped.isdecimal() else 0
    if beside is None:
        return _Voxels(path, length + begin, compressed)
    return _Voxels(_file_beside(path, beside), begin, compressed)


def _text_fields(path: Path) -> tuple[dict[str, str], int]:
    """Fields of the header by lower-case name, and its length in bytes, as both formats write it."""
    with path.open("rb") as file:
        block = file.read(_HEADER_BYTES)
    if not _is_metaimage(path) and not block.startswith(b"NRRD000"):
        raise InputError(f"{path}: it is not an NRRD volume, despite its name. Export it again.")
    fields: dict[str, str] = {}
    length, ended = 0, len(block) < _HEADER_BYTES
    for line in block.split(b"\n"):
        length += len(line) + 1
        text = line.strip().decode("latin-1")
        if not text and not _is_metaimage(path):  # an empty line ends an NRRD header
            ended = True
            break
        if not _is_metaimage(path):
            _check_nrrd_line(path, line)
        name, separator, value = (part.strip() for part in text.partition("=" if _is_metaimage(path) else ":"))
        if separator and not text.startswith("#") and fields.setdefault(name.lower(), value) != value:
            raise InputError(f"{path}: its header has {name[:40]!r} twice. Export it again.")
        if name.lower() == "elementdatafile":
            ended = True
            break
    if _is_metaimage(path) and "elementdatafile" not in fields:
        raise InputError(f"{path}: it is not a MetaImage volume, despite its name. Export it again.")
    if not ended:
        raise InputError(f"{path}: its header does not end in its first {_HEADER_BYTES:,} bytes. Export it again.")
    axes = fields.get("ndims" if _is_metaimage(path) else "dimension", "")
    if not axes.isdecimal() or len(axes) > 9 or not 1 <= int(axes) <= _LARGEST_AXES:
        raise InputError(f"{path}: it has a corrupt header ({axes[:20] or 'no number of'} axes). Export it again.")
    return fields, min(length, len(block))


def nrrd_values(path: Path) -> dict[str, str]:
    """A program's own values in an NRRD header, which stand behind ``:=``.

    Raises:
        InputError: no NRRD header, or a damaged one.
    """
    _, length = _text_fields(path)
    with path.open("rb") as file:
        lines = file.read(length).decode("utf-8", errors="replace").splitlines()
    pairs = (line.partition(":=") for line in lines if not line.startswith("#"))
    return {key.strip(): value.strip() for key, separator, value in pairs if separator}


def _check_nrrd_line(path: Path, line: bytes) -> None:
    """Refuse a line that is longer than any field: quoting it in a separate sentence, ITK writes beyond its memory.

    Comments, the free text and a program's own values, which ITK takes as they are, may be long.
    """
    before, own, _ = line.partition(b":=")
    free = line.startswith((b"#", b"content: ")) or (own and b": " not in before)
    if len(line) > _LONGEST_FIELD and not free:
        raise InputError(f"{path}: it has a corrupt header (a line of {len(line):,} characters). Export it again.")


def _file_beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names, which must lie in the header's own folder."""
    if not name:
        raise InputError(f"{path}: it names no file with voxels. Export it again.")
    if name.upper().startswith("LIST") or "%" in name:  # a pattern, which ITK hands to printf
        raise InputError(f"{path}: it keeps its voxels in a list of files. Save it as one file, .nrrd or .mha.")
    if Path(name).name != name or "\\" in name:
        raise InputError(f"{path}: it names a file with voxels in another folder. Put both into one folder.")
    source = path.with_name(name)
    if not source.is_file():
        raise InputError(f"{path}: its voxels are in {name}, which is not beside it. Copy that file there.")
    return source


# ------------------------------------------------------------------------------------------------- ITK's information


def _information(path: Path) -> SimpleITK.ImageFileReader:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise unreadable(path, _reason(error)) from error
    return reader


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's many, without its file names and addresses."""
    return re.sub(r"^.*\): |^.*ERROR: ", "", str(error).strip().splitlines()[-1])[:200]


def _shape(path: Path, reader: SimpleITK.ImageFileReader) -> tuple[int, int, int]:
    shape = tuple(reader.GetSize())
    if min(shape, default=0) < 1:
        raise InputError(f"{path}: it has a corrupt header (dimensions {list(shape)}). Export it again.")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise InputError(
            f"{path}: it is {len(shape)}D ({listed_size(shape)}), not 3D. Give each volume in a separate file."
        )
    return shape


def _check_kind(path: Path, reader: SimpleITK.ImageFileReader, layers: int) -> None:
    import SimpleITK as sitk

    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{path}: it holds complex voxels. Save one real number per voxel.")
    if (count := reader.GetNumberOfComponents()) != layers:
        raise InputError(
            f"{path}: it holds {counted(count, 'value')} per voxel (colour, vectors, or several volumes in one). Save "
            "one real number per voxel, and each volume in a separate file."
        )


def _itemsize(reader: SimpleITK.ImageFileReader) -> int:
    import SimpleITK as sitk

    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    return int(bits[1]) // 8 if bits else 1


def _affine(path: Path, reader: SimpleITK.ImageFileReader) -> np.ndarray:
    """(4, 4) from voxel index to RAS mm, of the first three axes."""
    axes = reader.GetDimension()
    spacing = np.array(reader.GetSpacing()[:3])
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        listed = ", ".join(f"{length:g}" for length in spacing)
        raise InputError(f"{path}: its voxel spacing is impossible ({listed}). Correct it or export the volume again.")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3] * spacing
    affine[:3, 3] = reader.GetOrigin()[:3]
    affine = LPS_TO_RAS @ affine
    affine.setflags(write=False)
    return affine
