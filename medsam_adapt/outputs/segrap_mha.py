"""Predictions as SegRap2023 takes them: one 4D .mha of all organs, or of both tumour volumes, for each case.

The channels' order was compared with the challenge's own ``stacked_results_to_4d_mha.py`` and with all 45 channels of
its ``oars_output_example.mha``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole
from medsam_adapt.core.text import class_key, counted
from medsam_adapt.data.datasets.layouts import segrap
from medsam_adapt.data.volumes.io import VolumeHeader, read_header
from medsam_adapt.outputs import Segmentation

SUFFIX = ".mha"
DESCRIPTION = "SegRap2023's submissions: a channel for each of the 45 organs, or for the two tumour volumes"
HOLDS_OVERLAP = True
NEEDS_DICOM = False
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def require() -> None:
    """Nothing beyond what is always installed."""


def check_names(names: Sequence[str]) -> None:
    """Raise an InputError for a structure that is none of one task's of the challenge."""
    _order_of([class_key(name) for name in names])


def write(path: Path, segmentation: Segmentation, like: VolumeHeader) -> None:
    """Write all channels to one file."""
    masks = np.stack([mask for _, _, mask in segmentation.structures()])
    write_segrap(path, masks, segmentation.names, like)


def write_segrap(path: str | Path, masks: np.ndarray, names: Sequence[str], like: str | Path | VolumeHeader) -> None:
    """Write masks as a 4D .mha (X, Y, Z, channel) uint8, whole or not at all, on the grid of the image ``like``.

    The channels are the 45 organs in the order of :data:`segrap.PARTS`, which is that of the part numbers in the
    challenge's maps; or GTVp and GTVnd where the names are theirs. Compare it with the challenge's present page before
    submitting. A structure that is not among ``names`` gets an empty channel.

    Args:
        path: ends in .mha.
        masks: (C, X, Y, Z) in the image's own axis order; above 0 is inside.
        names: of the C classes; upper and lower case, spaces and underscores are equal.
        like: the image's file, or its header.

    Raises:
        InputError: a name that is no structure of the challenge, another suffix, or the file cannot be written.
        ValueError: the masks do not fit the names or the image.
    """
    import SimpleITK as sitk

    path, header = Path(path), like if isinstance(like, VolumeHeader) else read_header(like)
    if path.suffix.lower() != ".mha":
        raise InputError(f"{path}: the challenge expects .mha. Name a file that ends in .mha.")
    if masks.shape != (len(names), *header.shape):
        raise ValueError(
            f"the masks' shape {masks.shape} is not that of {counted(len(names), 'name')} and {header.shape} voxels"
        )
    given = {class_key(name): mask for name, mask in zip(names, masks, strict=True)}
    order = _order_of([*given])
    empty = np.zeros(header.shape, dtype=np.uint8)
    channels = [_as_image((given.get(class_key(name), empty) > 0).astype(np.uint8), header) for name in order]
    try:
        with written_whole(path) as temporary:
            sitk.WriteImage(sitk.JoinSeries(channels), str(temporary), useCompression=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: it cannot be written ({error}). Choose another folder or free some space."
        ) from error


def _order_of(keys: Sequence[str]) -> list[str]:
    """The challenge's structures, in its order, of the task that the structures of these keys belong to."""
    for structures in (segrap.PARTS, segrap.TUMOURS):
        if {*keys} <= {class_key(name) for name in structures}:
            return list(structures)
    unknown = sorted({*keys} - {class_key(name) for name in (*segrap.PARTS, *segrap.TUMOURS)})
    raise InputError(
        f"--format segrap-mha: {unknown[0] if unknown else 'organs and tumours together'} is not in one task of the "
        "challenge. Predict with a run that was trained on layout segrap."
    )


def _as_image(mask: np.ndarray, header: VolumeHeader) -> object:
    """An ITK image of a mask (X, Y, Z) with the geometry of ``header``."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(mask.transpose(2, 1, 0))
    image.SetSpacing(header.spacing)
    image.SetOrigin((_RAS_TO_LPS @ header.affine[:3, 3]).tolist())
    image.SetDirection((_RAS_TO_LPS @ header.affine[:3, :3] / header.spacing).ravel().tolist())
    return image
