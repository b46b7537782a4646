"""The pixels of DICOM slices as stored: pydicom reads uncompressed and RLE files, SimpleITK the JPEG family."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.formats.dicom_headers import Slice, damage, quiet_dicom
from medsam_adapt.data.volumes.formats.itk import quiet_itk

if TYPE_CHECKING:
    from pydicom import Dataset


def read_pixels(folder: Path, slices: Sequence[Slice]) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Index, (rows, columns) stored pixels, and where they are padding, of every slice; each file is opened once.

    The slices come in no particular order. MONOCHROME1 is turned round, so that air is dark, in images whose values
    measure nothing. The last one is None for a slice that names no padding value.

    Raises:
        InputError: damaged pixels, or a compression that no installed decoder knows.
    """
    by_file: dict[Path, list[int]] = {}
    for index, item in enumerate(slices):
        by_file.setdefault(item.path, []).append(index)
    for path, indices in by_file.items():
        first = slices[indices[0]]
        place = f"{folder}, slice at ({', '.join(f'{part:.4g}' for part in first.position)}) mm"
        with quiet_dicom(), quiet_itk():
            try:
                frames = _decode(path, place)
                if frames.shape != (first.frame_count, first.rows, first.columns):
                    raise ValueError("shape")
            except damage(RuntimeError):
                raise InputError(
                    f"{place}: its pixels are damaged or truncated. Copy or export the series again."
                ) from None  # the cause may quote values of the header
        for index in indices:
            pixels, item = frames[slices[index].frame], slices[index]
            padding = None
            if item.padding is not None:
                padding = (pixels >= item.padding[0]) & (pixels <= item.padding[1])
            yield index, _turned_round(pixels, item) if item.inverted else pixels, padding


def _turned_round(pixels: np.ndarray, item: Slice) -> np.ndarray:
    if item.dtype.kind == "f":
        return -pixels
    signed = item.dtype.kind == "i"
    span = (1 << item.bits_stored) - 1  # the lowest and the highest value exchange places
    return ((-1 if signed else span) - pixels.astype(np.int64)).astype(item.dtype)


def _decode(path: Path, place: str) -> np.ndarray:
    """(frames, rows, columns) of a file, by the decoder that fits its transfer syntax."""
    import pydicom
    from pydicom import uid
    from pydicom.pixels import get_decoder, pixel_array

    dataset = pydicom.dcmread(path, force=True)
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:  # the old form without a file header
        syntax = uid.ExplicitVRLittleEndian if dataset.original_encoding[0] is False else uid.ImplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    if syntax in (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes, *_JPEG2000):
        return _decode_by_itk(dataset)
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise InputError(
            f"{place}: it is compressed as {syntax.name}, for which no decoder is installed. Decompress the series, "
            "with dcmdjpeg or gdcmconv --raw for instance, or install pylibjpeg."
        )
    array = pixel_array(dataset, raw=True)
    return array if array.ndim == 3 else array[None]


_JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")


def _decode_by_itk(dataset: Dataset) -> np.ndarray:
    """(frames, rows, columns) of a file of the JPEG family.

    Each frame goes to SimpleITK in a separate file that holds nothing but the pixels: so values stay as stored, and
    nothing of the patient is written.
    """
    import SimpleITK as sitk
    from pydicom import encaps

    count = int(dataset.get("NumberOfFrames") or 1)
    frames = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "frame.dcm")
        for frame in encaps.generate_frames(dataset.PixelData, number_of_frames=count):
            _bare_file(dataset, frame).save_as(target, enforce_file_format=True)
            frames.append(sitk.GetArrayFromImage(sitk.ReadImage(str(target), imageIO="GDCMImageIO"))[0])
    return np.stack(frames)


def _bare_file(dataset: Dataset, frame: bytes) -> Dataset:
    from pydicom import Dataset, encaps, uid
    from pydicom.dataset import FileMetaDataset

    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bare.SOPClassUID = bare.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    bare.SOPInstanceUID = bare.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(bare, name, dataset.get(name))
    bare.SamplesPerPixel, bare.PhotometricInterpretation = 1, "MONOCHROME2"
    bare.PixelData = encaps.encapsulate([frame])
    bare["PixelData"].is_undefined_length = True
    return bare
