"""What training data keep of the run that a training starts from."""

from __future__ import annotations

from typing import Any, Protocol

from medsam_adapt.config import Axis, Channels, InputScaling
from medsam_adapt.data.slices.intensity import IntensityPolicy


class EarlierRun(Protocol):
    """What training from a run keeps of it."""

    class_names: list[str]
    label_ids: list[int]
    absent: list[str]
    overlapping: bool
    images: Any
    policy: IntensityPolicy
    image_size: int
    axis: Axis
    three_planes: bool
    slice_size: int | None
    channels: Channels
    input_scaling: InputScaling
    knobs: dict[str, Any]

    @property
    def ever_trained(self) -> set[str]: ...

    @property
    def ever_held_out(self) -> set[str]: ...
