"""What training data keep of the run that a training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from medsam_adapt.config import Axis, Channels, InputScaling
from medsam_adapt.core.errors import InputError
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
    coordinates: bool
    channels: Channels
    input_scaling: InputScaling
    knobs: dict[str, Any]

    @property
    def ever_trained(self) -> set[str]: ...

    @property
    def ever_held_out(self) -> set[str]: ...


def refuse_changes(earlier: EarlierRun, wanted: Mapping[str, Any]) -> None:
    """Refuse settings that would change what the weights of the run to start from have learnt.

    Args:
        earlier: the run to start from.
        wanted: how the new training would slice, by the names of the settings.

    Raises:
        InputError: for the first setting that differs.
    """
    for name, value in wanted.items():
        own = getattr(earlier, name, earlier.knobs.get(name))
        if value != own:
            raise InputError(
                f"{name}: the run to start from has {own}, not {value}, and training from it keeps it. Leave out "
                f"{value}."
            )
