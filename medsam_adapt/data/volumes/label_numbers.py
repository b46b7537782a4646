"""The numbers in label files, checked: whole, from 0 to 65535."""

from __future__ import annotations

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.files import LARGEST_LABEL
from medsam_adapt.data.volumes.formats.base import VolumeHeader
from medsam_adapt.data.volumes.formats.picture import PICTURE, read_mask
from medsam_adapt.data.volumes.headers import format_of


def read_label_map(header: VolumeHeader) -> np.ndarray:
    """A label file's numbers (X, Y, Z) in its own axis order, checked; layers that share no voxel are joined."""
    layers = read_layers(header)
    if layers.ndim == 3:
        return layers
    used = np.count_nonzero(layers, axis=-1)
    numbers = [set(np.unique(layer)) - {0} for layer in np.moveaxis(layers, -1, 0)]
    if used.max(initial=0) > 1 or len(set().union(*numbers)) < sum(map(len, numbers)):
        raise InputError(
            f"{header.path}: segments overlap, or two have one number, which a label map cannot hold. Give them the "
            "names of the classes, and they are read one by one."
        )
    return layers.max(axis=-1)


def read_layers(header: VolumeHeader) -> np.ndarray:
    """A label file's numbers, (X, Y, Z) or (X, Y, Z, layers) uint8 or uint16 in its own axis order, checked.

    Raises:
        InputError: as `read_label`.
    """
    kind = format_of(header.path)
    values, slope, intercept = (read_mask(header), 1.0, 0.0) if kind is PICTURE else kind.read_voxels(header)
    if (slope, intercept) != (1, 0):
        values = values.astype(np.float64) * slope + intercept
    if values.dtype.kind == "f":
        whole = np.rint(values)
        off = ~(np.abs(values - whole) < 0.01)  # rescaling in float32 leaves a little over; NaN is off too
        if off.any():
            raise InputError(
                f"{header.path}: it is not a label map, since it holds {values[off][0]:g}. Save whole numbers, and "
                "resample labels with nearest neighbour only."
            )
        values = whole
    lowest, highest = values.min(), values.max()
    if lowest < 0 or highest > LARGEST_LABEL:
        raise InputError(
            f"{header.path}: it holds the label {lowest if lowest < 0 else highest:g}, and labels go from 0 "
            f"(background) to {LARGEST_LABEL}. Renumber them."
        )
    return values.astype(np.uint8 if highest <= 255 else np.uint16)
