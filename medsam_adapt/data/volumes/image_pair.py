"""Two images of one case, without and with contrast, as one volume of three channels.

    case/
      image.nii.gz             without contrast, or of another format
      image_contrast.nii.gz    with contrast, on the same grid

The folder is the volume: (X, Y, Z, 3) of the one, the other, and their mean. A pretrained SAM knows grey pictures, all
three channels alike; so it sees one wherever the contrast agent changes nothing, and a colour where it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.files import file_format, read_voxels, volume_files, volume_stem
from medsam_adapt.data.volumes.formats.base import VolumeFormat, VolumeHeader
from medsam_adapt.data.volumes.same_grid import align

if TYPE_CHECKING:
    import nibabel as nib

ImageName: TypeAlias = Literal["image", "image_contrast"]
IMAGE_PAIR: tuple[ImageName, ImageName] = ("image", "image_contrast")


def pair_files(folder: Path) -> list[Path]:
    """The files of a pair, the one without contrast first; fewer where some are not there."""
    found = {volume_stem(path): path for path in volume_files(folder) if path.is_file()} if folder.is_dir() else {}
    return [found[name] for name in IMAGE_PAIR if name in found]


def pair_folders(folder: Path) -> list[Path]:
    """The folders of pairs: the folder itself, or those directly in it, whole or not."""
    if pair_files(folder):
        return [folder]
    below = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    return [path for path in below if pair_files(path)]


def refuse_other_images(images: Sequence[str], known: Sequence[str], place: str | Path, run: str | Path) -> None:
    """Raise an InputError unless a data set gives the images of a case that a run knows.

    Args:
        images: names of the images of a case that are channels; none for cases of one image.
        known: of the run.
        place: the data set's folder, for the sentence.
        run: the run's folder.
    """
    if tuple(images) == tuple(known):
        return
    both = f"{' and '.join(IMAGE_PAIR)} together (--layout segrap:both)"
    theirs, ours = (both if names else "one image a case" for names in (known, images))
    raise InputError(f"{run} was trained on {theirs}, and {place} gives {ours}; give what it was trained on")


def _read_header(folder: Path) -> VolumeHeader:
    """The geometry of both, which must be one.

    Raises:
        InputError: as for every volume; one of the two is missing, or they have different grids.
    """
    files = pair_files(folder)
    if len(files) < len(IMAGE_PAIR):
        missing = next(name for name in IMAGE_PAIR if name not in map(volume_stem, files))
        raise InputError(
            f"{folder} has no {missing}.nii.gz, and both {' and '.join(IMAGE_PAIR)} are wanted; add it to the folder"
        )
    plain, contrast = (file_format(path).read_header(path) for path in files)
    align(plain, contrast, "Resample it onto that image, with linear interpolation for instance.", partial=False)
    return VolumeHeader(folder, plain.shape, plain.affine, notes=plain.notes)


def _read_voxels(header: VolumeHeader) -> tuple[np.ndarray, float, float]:
    volume = np.empty((*header.shape, 3), dtype=np.float32)
    for channel, path in enumerate(pair_files(header.path)):
        chosen = file_format(path)
        own = chosen.read_header(path)
        volume[..., channel] = align(header, own, partial=False).place(read_voxels(own, chosen))
    np.mean(volume[..., :2], axis=-1, out=volume[..., 2])
    return volume, 1.0, 0.0


def _label_header(header: VolumeHeader) -> nib.Nifti1Header:
    """The NIfTI header that a label on the grid of both starts from."""
    plain = pair_files(header.path)[0]
    chosen = file_format(plain)
    return chosen.label_header(chosen.read_header(plain))


PAIR = VolumeFormat(_read_header, _read_voxels, _label_header)
