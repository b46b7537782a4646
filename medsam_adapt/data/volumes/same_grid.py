"""Whether two volumes have the same voxels in the same places."""

from __future__ import annotations

import itertools

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.formats.base import VolumeHeader

# A volume this share of its smallest voxel side away from another is rounding; more is another grid.
ALIGNMENT_TOLERANCE = 0.1
_LABEL_MEND = "resample the label onto its image with nearest neighbour"


def check_same_grid(image: VolumeHeader, label: VolumeHeader, mend: str = _LABEL_MEND) -> None:
    """Raise an InputError that says how far apart, unless two volumes have the same voxels in the same places.

    Args:
        image: the one.
        label: the other, which the sentence begins with.
        mend: how it ends.
    """
    if image.shape != label.shape:
        sizes = [" × ".join(map(str, header.shape)) for header in (label, image)]
        raise InputError(f"{label.path} has {sizes[0]} voxels and its image {image.path.name} {sizes[1]}; {mend}")
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, length - 1) for length in image.shape))])
    apart = np.linalg.norm((corners @ (image.affine - label.affine).T)[:, :3], axis=1).max()
    if apart > ALIGNMENT_TOLERANCE * min(image.spacing):
        raise InputError(f"{label.path} lies up to {apart:.3g} mm from its image {image.path.name}; {mend}")
