"""The images of one case as one volume: sequences of an MR study, CT and PET, without and with contrast.

The images are separate volumes, or one 4D NIfTI file as in the Medical Segmentation Decathlon. The first one there has
the grid; the others are placed on it, and resampled with linear interpolation where their voxels are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import numpy as np
from pydantic import StringConstraints

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import class_key, counted
from medsam_adapt.data.volumes.files import file_format, read_voxels, volume_stem
from medsam_adapt.data.volumes.formats.base import VolumeFormat, VolumeHeader
from medsam_adapt.data.volumes.formats.dicom import DICOM, SeriesHeader, holds_dicom, read_series_header
from medsam_adapt.data.volumes.formats.dicom_suv import suv_factor
from medsam_adapt.data.volumes.formats.nifti import NIFTI_4D, images_in
from medsam_adapt.data.volumes.same_grid import align

if TYPE_CHECKING:
    import nibabel as nib

ImageName: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^$@%\s/\\][^/\\\r\n]*$")
]
MOST_IMAGES = 4
_LEAST_COVERED = 0.5  # of the first image's box; less is another part of the body, or another patient


@dataclass(frozen=True)
class ImageSet:
    """Which files are the images of a case.

    Attributes:
        names: of the images, in the order in which a run takes them.
        files: the volume of each, a file or a folder of DICOM files, None where it is missing; or one 4D file.
        series: the DICOM series wanted of each, where its folder holds several.
    """

    names: tuple[str, ...]
    files: tuple[Path | None, ...]
    series: tuple[str | None, ...] = field(default=(), kw_only=True)

    def __str__(self) -> str:
        return str(self.first)

    @property
    def first(self) -> Path:
        """The volume whose grid all have."""
        return next(path for path in self.files if path is not None)

    @property
    def present(self) -> tuple[Path, ...]:
        """All files and folders that there are."""
        return tuple(path for path in self.files if path is not None)

    @property
    def is_4d(self) -> bool:
        """Whether one file holds all images."""
        return len(self.files) == 1

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the images that are not there."""
        return tuple(name for name, path in zip(self.names, self.files, strict=False) if path is None)

    def absolute(self) -> ImageSet:
        """The same with absolute paths."""
        return replace(self, files=tuple(None if path is None else path.absolute() for path in self.files))

    def entry(self) -> list[str]:
        """The paths as MONAI's datalists write them; empty for an image that is missing."""
        return ["" if path is None else str(path) for path in self.files]


ImageSource: TypeAlias = Path | ImageSet


def as_source(image: str | Path | ImageSet | Sequence[str | Path]) -> ImageSource:
    """One volume's path, or the images of a case as a set; unnamed ones are called by their number."""
    if isinstance(image, str | Path):
        return Path(image)
    if isinstance(image, ImageSet):
        return image
    return as_set(image)


def as_set(images: Sequence[str | Path]) -> ImageSet:
    """The images of a case, called by their number; one path is a file of as many images as it holds."""
    files = tuple(Path(path) if str(path) else None for path in images)
    if not any(files):
        raise InputError("images: the list is empty. Give the paths of the images of a case.")
    names = tuple(f"image {number}" for number in range(1, len(files) + 1)) if len(files) > 1 else ()
    return ImageSet(names, files)


@dataclass(frozen=True, eq=False)
class ImageSetHeader(VolumeHeader):
    """The geometry that the images of a case have together, and their separate headers (None where one is missing)."""

    source: ImageSet = field(kw_only=True)
    members: tuple[VolumeHeader | None, ...] = field(default=(), kw_only=True)

    @property
    def modalities(self) -> tuple[str | None, ...]:
        return tuple(None if member is None else member.modality for member in self.members)


def reference_series(header: VolumeHeader) -> SeriesHeader | None:
    """The DICOM series to which outputs on this grid can refer: the volume, or the first image of a case."""
    if isinstance(header, ImageSetHeader):
        first = next((member for member in header.members if member is not None), None)
        return first if isinstance(first, SeriesHeader) else None
    return header if isinstance(header, SeriesHeader) else None


def read_set_header(source: ImageSet) -> ImageSetHeader:
    """The geometry of the first image, after a check of all.

    Raises:
        InputError: as for every volume; a 4D file of another number of images, images that do not lie in the same
            place.
    """
    if source.is_4d:
        file_format(source.first)  # refuses a file that is not there, or empty
        if not source.first.name.lower().endswith((".nii", ".nii.gz")):
            raise InputError(f"{source.first}: it is no NIFTI file, which alone holds several images. Convert it.")
        found = NIFTI_4D.read_header(source.first)
        count = images_in(source.first)
        if source.names and count != len(source.names):
            raise InputError(
                f"{source.first}: it holds {counted(count, 'image')} and {len(source.names)} are named "
                f"({', '.join(source.names)}). Give the file that holds these."
            )
        members: tuple[VolumeHeader | None, ...] = (found,) * count
        return _header(source, found, members, found.notes)
    members = tuple(
        None if path is None else _member(path, source.series[index] if source.series else None)
        for index, path in enumerate(source.files)
    )
    first = next(member for member in members if member is not None)
    notes = list(first.notes)
    for name, member in zip(source.names, members, strict=True):
        if member is not None and member is not first:
            notes += [*member.notes, *_resampling_note(name, member, first)]
    return _header(source, first, members, tuple(notes))


def read_set_voxels(header: ImageSetHeader, suv: Sequence[bool] = ()) -> np.ndarray:
    """(X, Y, Z, C) float32 on the first image's grid; NaN for an image that is missing.

    Args:
        header: from `read_set_header`.
        suv: of each image, as for `read_volume`.

    Raises:
        InputError: as `read_volume`.
    """
    if header.source.is_4d:
        return read_voxels(header, NIFTI_4D)
    first = next(member for member in header.members if member is not None)
    volume = np.full((*header.shape, len(header.members)), np.nan, dtype=np.float32)
    for index, member in enumerate(header.members):
        if member is None:
            continue
        voxels = read_voxels(member, _format(member.path))
        if index < len(suv) and suv[index] and isinstance(member, SeriesHeader) and member.modality == "PT":
            voxels *= np.float32(suv_factor(member))
        volume[..., index] = voxels if member is first else _on_grid(voxels, member, first)
    return volume


def set_label_header(header: ImageSetHeader) -> nib.Nifti1Header:
    """The NIfTI header that a label on the grid of all starts from."""
    first = next(member for member in header.members if member is not None)
    fields = (NIFTI_4D if header.source.is_4d else _format(first.path)).label_header(first)
    fields.set_data_shape(header.shape)
    return fields


def refuse_other_images(images: Sequence[str], known: Sequence[str], place: str | Path, run: str | Path) -> None:
    """Raise an InputError unless a data set gives the images of a case that a run knows, in their order.

    Args:
        images: names of the images of a case; none for cases of one image.
        known: of the run.
        place: the data set's folder, for the sentence.
        run: the run's folder.
    """
    if tuple(images) == tuple(known):
        return
    theirs, ours = (f"{', '.join(names)} together" if names else "one image a case" for names in (known, images))
    order = " in another order" if {*images} == {*known} else ""
    raise InputError(
        f"{run}: it was trained on {theirs}, and {place} gives {ours}{order}. Give what it was trained on."
    )


def in_order(image: ImageSet, names: Sequence[str]) -> ImageSet | None:
    """The images of a case in the order of ``names``; None where it has others, or a 4D file, whose order is fixed."""
    keys, wanted = [class_key(name) for name in image.names], [class_key(name) for name in names]
    if image.is_4d or sorted(keys) != sorted(wanted):
        return None
    places = [keys.index(key) for key in wanted]
    series = tuple(image.series[place] for place in places) if image.series else ()
    return replace(image, names=tuple(names), files=tuple(image.files[place] for place in places), series=series)


def refuse_misplaced(names: Sequence[str], files: Sequence[str | Path], place: str | Path) -> None:
    """Raise an InputError where a file that is listed as one image of a case ends with the name of another one.

    Args:
        names: of the images, in their order.
        files: the file or folder of each; the name of one 4D file is not looked at.
        place: who lists them, for the sentence.
    """
    if len(files) != len(names):
        return
    for name, path in zip(names, files, strict=True):
        called = _called(Path(path), names) if str(path) else None  # nothing in the place of one that is missing
        if called is not None and called != name:
            raise InputError(
                f"{place}: it lists {Path(path).name} as {name}, and this name ends with {called}. Give the images in "
                f"the order {', '.join(names)}."
            )


def _called(path: Path, names: Sequence[str]) -> str | None:
    """The image whose name is a file's or folder's, or ends it; None where there is none."""
    words = f" {class_key(volume_stem(path))}"
    endings = sorted(names, key=len, reverse=True)  # "T1 gd" before "gd"
    return next((name for name in endings if words.endswith(f" {class_key(name)}")), None)


def _header(
    source: ImageSet, first: VolumeHeader, members: tuple[VolumeHeader | None, ...], notes: tuple[str, ...]
) -> ImageSetHeader:
    return ImageSetHeader(
        first.path,
        first.shape,
        first.affine,
        other_affines=first.other_affines,
        contradiction=first.contradiction,
        notes=tuple(dict.fromkeys(notes)),
        source=source,
        members=members,
    )


def _member(path: Path, series: str | None) -> VolumeHeader:
    if path.is_dir() and holds_dicom(path):
        return read_series_header(path, series)
    return _format(path).read_header(path)


def _format(path: Path) -> VolumeFormat:
    if path.is_dir():
        if holds_dicom(path):
            return DICOM
        raise InputError(f"{path}: it is a folder without DICOM files where an image is wanted. Give the image itself.")
    return file_format(path)


# ---------------------------------------------------------------------------------------------------- one common grid


def _is_same_grid(member: VolumeHeader, first: VolumeHeader) -> bool:
    try:
        align(first, member, partial=False)
    except InputError:
        return False
    return True


def _resampling_note(name: str, member: VolumeHeader, first: VolumeHeader) -> list[str]:
    """A sentence where an image has another grid than the first.

    Raises:
        InputError: it lies elsewhere.
    """
    if _is_same_grid(member, first):
        return []
    covered = _covered(member, first)
    if covered < _LEAST_COVERED:
        raise InputError(
            f"{member.path}: it covers {covered:.0%} of {first.path.name}. Give the images of one case, of the same "
            "part of the body."
        )
    partly = f", of which it covers {covered:.0%}" if covered < 0.995 else ""
    return [f"{member.path}: {name} has another grid than {first.path.name}{partly}, and is resampled to it."]


def _covered(member: VolumeHeader, first: VolumeHeader) -> float:
    """The share of the first image's voxels that lie in another image's box, on a coarse grid of points."""
    axes = [np.linspace(0, side - 1, min(side, 24)) for side in first.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    to_member = np.linalg.solve(member.affine, first.affine)
    places = points @ to_member[:3, :3].T + to_member[:3, 3]
    inside = (places > -0.5).all(axis=1) & (places < np.array(member.shape) - 0.5).all(axis=1)
    return float(inside.mean())


def _on_grid(voxels: np.ndarray, member: VolumeHeader, first: VolumeHeader) -> np.ndarray:
    if _is_same_grid(member, first):
        return align(first, member, partial=False).place(voxels)
    from scipy.ndimage import affine_transform

    to_member = np.linalg.solve(member.affine, first.affine)
    lowest = float(voxels.min())  # outside the image: air in a CT
    return affine_transform(
        voxels, to_member[:3, :3], to_member[:3, 3], first.shape, order=1, mode="grid-constant", cval=lowest
    )
