"""How volumes are sliced, as far as the settings of a run, and the run that it starts from, decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medsam_adapt.config import Axis, Channels, CoordinateChoice, Knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.slices.earlier_run import EarlierRun, refuse_changes
from medsam_adapt.weights.backbones import get_variant


@dataclass
class SlicingChoice:
    """What is known before any volume is opened.

    Attributes:
        image_size: side in pixels of what the network sees.
        fits_size: whether it is that of the earlier run, or where there is none is left to the training volumes.
        axis: slicing direction, the first of three; axial with ``axis=auto``, until the headers are read.
        three_planes: whether slices of all directions are learned; not with ``planes=auto``, until they are read.
        slice_size: side of whole slices in pixels where the network sees tiles of them; else None.
        coordinates: whether the detail branch sees where pixels lie in the volume.
        channels: what SAM's colour channels hold where a case has one image.
    """

    image_size: int
    fits_size: bool
    axis: Axis
    three_planes: bool
    slice_size: int | None
    coordinates: bool
    channels: Channels


def choose_slicing(knobs: Knobs, earlier: EarlierRun | None = None) -> SlicingChoice:
    """The slicing that the settings ask for; what they leave open is that of the ``earlier`` run.

    Raises:
        InputError: an image size that the backbone cannot take, settings that exclude each other, or settings that
            would change what the weights of the earlier run have learnt.
    """
    variant = get_variant(knobs.backbone)
    image_size = knobs.image_size or variant.image_size
    variant.grid(image_size)
    if knobs.coordinates == "on" and (knobs.detail == 0 or knobs.prompt != "none"):
        raise InputError("coordinates=on: a detail branch without prompts sees them. Add detail, or leave it out.")
    if knobs.planes == "three" and knobs.prompt != "none":
        raise InputError("planes=three: a prompt lies on slices of one direction. Leave out --prompt or planes.")
    channels: Channels = "adjacent" if knobs.channels == "auto" else knobs.channels
    if knobs.channels == "auto" and str(knobs.intensity).startswith("ct-windows:"):
        channels = "repeat"  # the windows fill the colours
    chosen = SlicingChoice(
        image_size=image_size,
        fits_size=knobs.image_size is None and knobs.detail > 0 and variant.small,
        axis="axial" if knobs.axis == "auto" else knobs.axis,
        three_planes=knobs.planes == "three",
        slice_size=None,
        coordinates=knobs.coordinates == "on",
        channels=channels,
    )
    if earlier is not None:
        _continue(chosen, knobs, earlier)
    return chosen


def _continue(chosen: SlicingChoice, knobs: Knobs, earlier: EarlierRun) -> None:
    """Slice as the earlier run did, where the settings leave it open, and refuse them where they do not."""
    chosen.slice_size = earlier.slice_size
    if chosen.fits_size:
        chosen.image_size = earlier.image_size
    if knobs.channels == "auto":
        chosen.channels = earlier.channels
    if knobs.axis == "auto":
        chosen.axis = earlier.axis
    if knobs.planes == "auto":
        chosen.three_planes = earlier.three_planes
    own: CoordinateChoice = "on" if earlier.sees_coordinates else "off"
    if knobs.coordinates not in ("auto", own):
        raise InputError(
            f"coordinates: the run to start from has {own}, not {knobs.coordinates}, and training from it keeps it. "
            f"Use coordinates={own}."
        )
    chosen.coordinates = earlier.sees_coordinates
    wanted: dict[str, Any] = {"image_size": chosen.image_size, "axis": chosen.axis, "channels": chosen.channels}
    wanted |= {"intensity": knobs.intensity, "three_planes": chosen.three_planes}
    if knobs.input_scaling is not None:
        wanted["input_scaling"] = knobs.input_scaling
    refuse_changes(earlier, wanted)
