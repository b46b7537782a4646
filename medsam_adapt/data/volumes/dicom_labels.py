"""Labels from DICOM: segmentations (SEG, read by highdicom) and structure sets (RTSTRUCT), on the grid of their image.

A voxel belongs to a contour if its centre lies inside; contours of one structure in one slice are combined by the
even-odd rule, so that an inner one cuts a hole. Structures are named as the file names them; a sentence tells them by
number.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.formats.base import LPS_TO_RAS, VolumeHeader
from medsam_adapt.data.volumes.formats.dicom import SeriesHeader
from medsam_adapt.data.volumes.formats.dicom_headers import damage, is_dicom, quiet_dicom
from medsam_adapt.data.volumes.headers import read_header

if TYPE_CHECKING:
    from pydicom import Dataset

LABEL_KINDS = ("SEG", "RTSTRUCT")
_OFF_GRID = 0.1  # voxels
_BETWEEN_SLICES = 0.3  # of the distance between slices


def dicom_kind(path: Path) -> str | None:
    """The modality of a DICOM file ("CT", "SEG", "RTSTRUCT", ...); None where it is none or names none."""
    import pydicom

    if not is_dicom(path):
        return None
    try:
        with quiet_dicom():
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=["Modality"])
            return str(dataset.get("Modality") or "") or None
    except damage():
        return None  # whoever reads it tells


@quiet_dicom()  # values are read, and remarked upon, when they are asked for
def structure_names(path: str | Path) -> dict[int, str]:
    """Number -> name of the structures in a SEG or RTSTRUCT file, ascending.

    Raises:
        InputError: no such file, neither of the two, damaged, or a name that is given twice.
    """
    return _names(Path(path), _read(Path(path)))


@quiet_dicom()
def read_dicom_labels(
    path: str | Path, image: str | Path | VolumeHeader
) -> tuple[np.ndarray | dict[str, np.ndarray], dict[int, str]]:
    """The structures of a SEG or RTSTRUCT file on the grid of its image.

    Args:
        path: the file.
        image: the image's folder (or file of another format), or its header.

    Returns:
        (X, Y, Z) uint8 or uint16 with the structures' numbers, or where structures overlap {name: (X, Y, Z) bool}; and
        number -> name.

    Raises:
        InputError: as `structure_names` and `read_header`; drawn on another series, off the image's grid or outside it.
    """
    path, header = Path(path), image if isinstance(image, VolumeHeader) else read_header(image)
    dataset = _read(path)
    names = _names(path, dataset)
    _check_frame_of_reference(path, dataset, header)
    masks = _segments if dataset.Modality == "SEG" else _contoured
    label = np.zeros(header.shape, dtype=np.uint8 if max(names, default=0) <= 255 else np.uint16)
    overlap = False
    for number, mask in masks(path, dataset, header):
        overlap = overlap or bool(label[mask].any())
        label[mask] = number
    if overlap:
        return {names[number]: mask for number, mask in masks(path, dataset, header)}, names
    return label, names


def _read(path: Path) -> Dataset:
    import pydicom

    if not path.is_file():
        raise InputError(f"{path} does not exist; give the file of a DICOM segmentation or structure set")
    kind = dicom_kind(path)
    if kind not in LABEL_KINDS:
        raise InputError(f"{path} is no DICOM segmentation (SEG) and no structure set (RTSTRUCT); give one of these")
    try:
        with quiet_dicom():
            if kind == "RTSTRUCT":
                return pydicom.dcmread(path, force=True)
            return _highdicom().seg.segread(path)
    except damage(RuntimeError, sqlite3.Error):
        raise _damaged(path) from None  # the cause quotes values


def _highdicom() -> Any:
    try:
        import highdicom
    except ModuleNotFoundError as error:
        raise InputError(
            'DICOM segmentations need highdicom, which is not installed; run pip install "medsam-adapt[dicom]"'
        ) from error
    return highdicom


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} cannot be read, truncated or damaged perhaps; copy or export it again")


def _names(path: Path, dataset: Dataset) -> dict[int, str]:
    try:
        if dataset.Modality == "SEG":
            pairs = [(int(item.SegmentNumber), str(item.SegmentLabel)) for item in dataset.SegmentSequence]
        else:
            pairs = [(int(item.ROINumber), str(item.ROIName)) for item in dataset.StructureSetROISequence]
    except damage():
        raise _damaged(path) from None
    # A segment 0 is the background of a label map.
    names = {number: name.strip() for number, name in sorted(pairs) if number > 0 or dataset.Modality == "RTSTRUCT"}
    if dataset.Modality == "RTSTRUCT" and min(names, default=1) < 1:  # allowed there, but 0 is our background
        names = dict(enumerate(names.values(), start=1))
    if len({*names.values()}) < len(names) or not all(names.values()):
        raise InputError(f"{path} has two structures of the same name, or one without; give each a name of its own")
    if max(names, default=0) > 65535:
        raise InputError(f"{path} has a structure with a number above 65535; export it again")
    return names


def _check_frame_of_reference(path: Path, dataset: Dataset, header: VolumeHeader) -> None:
    """Refuse a label of another patient or session, where both sides tell."""
    own = {str(dataset.get("FrameOfReferenceUID") or "")}
    for item in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        own.add(str(item.get("FrameOfReferenceUID") or ""))
    images = {item.frame_of_reference for item in header.slices} if isinstance(header, SeriesHeader) else set()
    if (own := own - {""}) and (images := images - {""}) and not own & images:
        raise InputError(
            f"{path} was drawn on another series than that in {header.path} (another frame of reference); give the "
            "label that belongs to it"
        )


# --------------------------------------------------------------------------------------------------------------- SEG


def _segments(path: Path, dataset: Any, header: VolumeHeader) -> Iterator[tuple[int, np.ndarray]]:
    """Number and mask of each segment; of a fractional one, what is at least half."""
    for number in sorted(number for number in dataset.segment_numbers if number > 0):
        try:
            with quiet_dicom():
                volume = dataset.get_volume(segment_numbers=[number], combine_segments=False)
        except damage(RuntimeError, sqlite3.Error):  # highdicom asks a small data base about the frames
            raise InputError(
                f"{path} has frames that are damaged or make no even stack; export it again from its source"
            ) from None
        yield number, _placed(path, volume.array[..., 0] >= 0.5, LPS_TO_RAS @ volume.affine, header)


def _placed(path: Path, mask: np.ndarray, affine: np.ndarray, header: VolumeHeader) -> np.ndarray:
    """A mask of whatever orientation and extent on the grid of the image, without resampling."""
    to_image = np.linalg.solve(header.affine, affine)
    axes = np.abs(to_image[:3, :3]).argmax(axis=0)  # the image's axis along which each of the mask's runs
    corners = np.array(list(itertools.product(*((0, length - 1) for length in mask.shape))))
    steps, start = np.rint(to_image[axes, range(3)]), np.rint(to_image[:3, 3])
    rounded = np.zeros((3, 3))
    rounded[axes, range(3)] = steps
    off = corners @ (to_image[:3, :3] - rounded).T + to_image[:3, 3] - start
    if len({*axes.tolist()}) < 3 or np.abs(off).max() > _OFF_GRID:
        raise InputError(
            f"{path} lies on another grid than its image {header.path.name}; resample it onto the image with nearest "
            "neighbour and save it as NIfTI"
        )
    places = [start[axes[i]] + steps[i] * np.arange(mask.shape[i]) for i in range(3)]
    inside = [(place >= 0) & (place < header.shape[axis]) for place, axis in zip(places, axes, strict=True)]
    cropped = mask[np.ix_(*inside)]
    if np.count_nonzero(cropped) < np.count_nonzero(mask):
        raise _beyond(path, header)
    order = np.argsort(axes)
    whole = np.zeros(header.shape, dtype=bool)
    kept = [place[keep].astype(int) for place, keep in zip(places, inside, strict=True)]
    whole[np.ix_(*(kept[i] for i in order))] = cropped.transpose(order)
    return whole


def _beyond(path: Path, header: VolumeHeader) -> InputError:
    return InputError(f"{path} reaches beyond its image {header.path.name}; give the label that belongs to the image")


# ---------------------------------------------------------------------------------------------------------- RTSTRUCT


def _contoured(path: Path, dataset: Dataset, header: VolumeHeader) -> Iterator[tuple[int, np.ndarray]]:
    """Number and mask of each structure; one without closed contours is empty."""
    try:
        own = sorted(int(item.ROINumber) for item in dataset.StructureSetROISequence)
        contours: dict[int, list[np.ndarray]] = {number: [] for number in own}
        for item in dataset.get("ROIContourSequence") or ():
            for contour in item.get("ContourSequence") or ():
                if contour.ContourGeometricType.startswith("CLOSED_PLANAR"):  # also with XOR behind it
                    points = np.array([float(part) for part in contour.ContourData]).reshape(-1, 3)
                    contours[int(item.ReferencedROINumber)].append(points)
    except damage():
        raise _damaged(path) from None
    shift = 1 - own[0] if own and own[0] < 1 else 0
    for rank, number in enumerate(own, start=1):
        yield rank if shift else number, _filled(path, contours[number], header)


def _filled(path: Path, contours: list[np.ndarray], header: VolumeHeader) -> np.ndarray:
    from skimage.draw import polygon

    mask = np.zeros(header.shape, dtype=bool)
    to_voxels = np.linalg.inv(header.affine) @ LPS_TO_RAS
    for points in contours:
        if len(points) < 3:
            continue
        voxels = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        across = int(np.ptp(voxels, axis=0).argmin())  # the axis that the contour's plane is perpendicular to
        place = float(np.median(voxels[:, across]))
        if np.abs(voxels[:, across] - round(place)).max() > _BETWEEN_SLICES:
            raise InputError(
                f"{path} has contours that lie between the slices of {header.path.name} or across them; give the "
                "structure set that was drawn on these images"
            )
        if not 0 <= round(place) < header.shape[across]:
            raise _beyond(path, header)
        plane = np.moveaxis(mask, across, 0)[round(place)]
        first, second = np.delete(voxels, across, axis=1).T
        if min(first.min(), second.min()) < -1 or (first.max() > plane.shape[0]) or (second.max() > plane.shape[1]):
            raise _beyond(path, header)
        rows, columns = polygon(first, second, plane.shape)
        plane[rows, columns] ^= True
    return mask
