"""Packs a segmented case for the report: slices reduced to grey JPEG sheets, masks to outlines."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from medsam_adapt.config import Axis
from medsam_adapt.data.slices.geometry import SlicePlan, as_tensor, volume_to_slices
from medsam_adapt.evaluation.contours import outline
from medsam_adapt.evaluation.shown_cases import PackedCase

SHEET_ROWS = 4096  # pixels: phones cannot show much taller pictures
CASE_BYTES = 4_000_000  # of slices and outlines; a case that takes more is made smaller
# Side of a slice in pixels, JPEG quality, and most slices (of a longer case every second or third is shown), tried in
# turn.
_SIZES = ((256, 80, 160), (192, 70, 160), (128, 60, 80), (96, 50, 40))


@dataclass(frozen=True)
class Volumes:
    """One case in RAS order on the 0-255 scale: image (X, Y, Z), colours (3, X, Y, Z) or several images, and its masks.

    Attributes:
        case: its id.
        image: grey levels, or colours, or those of each image that ``images`` names.
        prediction: classes (X, Y, Z), or masks (C, X, Y, Z) of classes that may overlap.
        reference: the same.
        spacing: mm along X, Y and Z.
        images: names of the images of the case; none for one.
    """

    case: str
    image: np.ndarray
    prediction: np.ndarray
    reference: np.ndarray
    spacing: tuple[float, ...]
    images: tuple[str, ...] = ()


def pack(volumes: Volumes, axis: Axis, classes: int, case_bytes: int = CASE_BYTES) -> PackedCase:
    """Pack a case: slices with square pixels in mm, at most 256 pixels per side.

    Args:
        volumes: of the case.
        axis: slicing direction.
        classes: how many there are.
        case_bytes: of slices and outlines; a case that takes more is made smaller, down to the last of the sizes.
    """
    for side, quality, most_slices in _SIZES:
        packed = _pack(volumes, axis, classes, side, quality, most_slices)
        if packed.packed_bytes <= case_bytes:
            break
    return packed


def _pack(volumes: Volumes, axis: Axis, classes: int, side: int, quality: int, most_slices: int) -> PackedCase:
    stacks = [_stack(image, axis) for image in (volumes.image if volumes.images else [volumes.image])]
    slices = len(stacks[0])
    shown = np.arange(0, slices, math.ceil(slices / most_slices))
    plan = _plan(volumes, axis, side)
    grey = [_small(stack[shown], plan) for stack in stacks]
    per_sheet = max(1, SHEET_ROWS // plan.resized[0])
    sheets = [[_jpeg(sheet, quality) for sheet in _sheets(image, per_sheet)] for image in grey]
    prediction, reference = (
        _small_masks(labels, axis, shown, plan, classes) for labels in (volumes.prediction, volumes.reference)
    )
    looked_at = reference if any(mask.any() for mask in reference.values()) else prediction
    area = sum((mask.sum(axis=(1, 2)) for mask in looked_at.values()), start=np.zeros(len(shown), int))
    key = int(area.argmax())
    return PackedCase(
        case=volumes.case,
        numbers=(shown + 1).tolist(),
        slices=slices,
        width=plan.resized[1],
        height=plan.resized[0],
        native=plan.native,
        images=list(volumes.images),
        sheets=sheets[0],
        further_sheets=sheets[1:],
        per_sheet=per_sheet,
        prediction=_outlines(prediction, len(shown)),
        reference=_outlines(reference, len(shown)),
        key_index=key,
        key_slice=_jpeg(grey[0][key], quality=85),
    )


def _small(slices: np.ndarray, plan: SlicePlan) -> np.ndarray:
    """Slices (n, rows, columns), or colours behind, as small as they are shown, uint8."""
    small: np.ndarray = plan.resize_image(as_tensor(slices)).to(torch.uint8).numpy()
    return np.moveaxis(small, 1, -1) if small.ndim == 4 else small  # colours come first


def _sheets(slices: np.ndarray, per_sheet: int) -> list[np.ndarray]:
    """Pictures of slices one below the other."""
    return [np.concatenate([*slices[start : start + per_sheet]]) for start in range(0, len(slices), per_sheet)]


def _stack(volume: np.ndarray, axis: Axis) -> np.ndarray:
    """(N, rows, columns) of a volume (X, Y, Z), with colours last for one of (3, X, Y, Z)."""
    return volume_to_slices(volume if volume.ndim == 3 else np.moveaxis(volume, 0, -1), axis)


def _plan(volumes: Volumes, axis: Axis, side: int) -> SlicePlan:
    shape = volumes.image.shape[-3:]
    native = SlicePlan.of(shape, volumes.spacing, axis, side).native
    return SlicePlan.of(shape, volumes.spacing, axis, min(side, max(native)))


def _small_masks(
    labels: np.ndarray, axis: Axis, shown: np.ndarray, plan: SlicePlan, classes: int
) -> Mapping[int, np.ndarray]:
    """Number of each class -> its mask (slices, rows, columns) bool, as small as the grey slices."""
    if labels.ndim == 3:
        small = plan.resize_label(as_tensor(_stack(labels, axis)[shown], torch.uint8)).numpy()
        return {number: small == number for number in range(1, classes + 1)}
    return {
        number: plan.resize_label(as_tensor(_stack(mask, axis)[shown], torch.uint8)).numpy() > 0
        for number, mask in enumerate(labels, start=1)
    }


def _outlines(masks: Mapping[int, np.ndarray], slices: int) -> list[dict[int, str]]:
    return [
        {number: line for number, mask in masks.items() if (line := outline(mask[index]))} for index in range(slices)
    ]


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """A JPEG file of pixels (rows, columns) or (rows, columns, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality, optimize=True)
    return file.getvalue()
