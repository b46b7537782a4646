"""3D Slicer's segmentations (.seg.nrrd) as labels: what the header holds about each segment, and their masks.

Slicer numbers the segments of every file anew, so that only their names show which is the same structure in two files.
Segments that overlap lie in several layers, which are the first axis of the file; numbers may repeat among the layers.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.formats.base import VolumeHeader
from medsam_adapt.data.volumes.formats.itk import nrrd_values
from medsam_adapt.data.volumes.headers import read_header
from medsam_adapt.data.volumes.label_numbers import read_layers
from medsam_adapt.data.volumes.same_grid import align


@dataclass(frozen=True)
class Segment:
    """One structure of a file: its name, and the voxels of ``layer`` that hold ``value``."""

    name: str
    value: int
    layer: int


def segments_of(path: str | Path) -> tuple[Segment, ...]:
    """The segments that a file's header describes; none for a plain label map of such a name.

    Raises:
        InputError: a header that cannot be read, or a description without a name or value, or one that is given twice.
    """
    path = Path(path)
    values = nrrd_values(path)
    numbers = sorted({int(found[1]) for key in values if (found := re.match(r"Segment(\d+)_", key))})
    segments = []
    for number in numbers:
        name = values.get(f"Segment{number}_Name") or values.get(f"Segment{number}_ID", "")
        value, layer = (
            values.get(f"Segment{number}_{key}", default) for key, default in (("LabelValue", ""), ("Layer", "0"))
        )
        if not name or not value.strip().isdecimal() or not layer.strip().isdecimal():
            raise InputError(
                f"{path}: it describes a segment without a name, a value or a layer. Save it again in Slicer."
            )
        segments.append(Segment(name, int(value), int(layer)))
    names = {segment.name for segment in segments}
    places = {(segment.layer, segment.value) for segment in segments}
    if len(names) < len(segments) or len(places) < len(segments):
        raise InputError(
            f"{path}: two segments have the same name or value. Give each segment a unique name in Slicer."
        )
    return tuple(segments)


def read_segments(
    path: str | Path, like: VolumeHeader | None = None, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The mask (X, Y, Z) bool of each segment by name.

    Args:
        path: the file.
        like: the image's header, on whose grid the masks are wanted; the file's own grid when None.
        names: of the segments wanted; all when None.

    Raises:
        InputError: as `segments_of` and `read_label`; a segment in a layer that the file does not have.
    """
    header = read_header(path)
    layers = read_layers(header)
    layers = layers[..., None] if layers.ndim == 3 else layers
    segments = segments_of(path)
    if any(segment.layer >= layers.shape[-1] for segment in segments):
        raise InputError(f"{path}: it describes a segment in a layer that it does not have. Save it again in Slicer.")
    wanted = [segment for segment in segments if names is None or segment.name in names]
    masks = {segment.name: layers[..., segment.layer] == segment.value for segment in wanted}
    if like is None:
        return masks
    move = align(like, header)
    return {name: move.place(mask) for name, mask in masks.items()}
