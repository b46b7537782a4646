"""The pixel values that weights expect, as plain data: it belongs to the weights, and to all that is trained from them.

``sam``: RGB values from 0 to 255 minus their mean over SAM's training images, divided by their standard deviation.
``unit``: each slice stretched so that its smallest value is 0 and its largest 1, as MedSAM and LiteMedSAM were trained
(bowang-lab/MedSAM, ``MedSAM_Inference.py``; branch LiteMedSAM, ``train_one_gpu.py``). Padding is zero in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from medsam_adapt.config import InputScaling
from medsam_adapt.core.errors import InputError
from medsam_adapt.weights.backbones import PIXEL_MEAN, PIXEL_STD

if TYPE_CHECKING:  # slow to import, and only tensors' own methods are used
    from torch import Tensor

_NOISE = 1.0  # grey levels: a slice whose values differ by less is not stretched to the full range


@dataclass(frozen=True)
class PixelScaling:
    """From a slice on the 0-255 scale to what the image encoder takes: (value - mean) / std in each channel.

    Attributes:
        mean: of each channel; it is also the value of padding, which becomes zero.
        std: of each channel.
        stretched: whether each slice is first stretched to the whole range from 0 to 255.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stretched: bool

    def means(self, channels: int) -> tuple[float, ...]:
        """`mean` of each of so many channels: one beyond the three colours has the mean over them."""
        return (*self.mean, *[sum(self.mean) / 3] * (channels - 3))

    def stretch(self, image: Tensor) -> Tensor:
        """Slices (..., 3, h, w) on the 0-255 scale as the network's ``mean`` and ``std`` expect them, not yet padded.

        Args:
            image: smallest and largest value are taken over the channels of a slice together.
        """
        if not self.stretched or image.numel() == 0:
            return image
        low, high = image.amin((-3, -2, -1), keepdim=True), image.amax((-3, -2, -1), keepdim=True)
        return (image - low) * (255.0 / (high - low).clamp(min=_NOISE))


SCALINGS: dict[InputScaling, PixelScaling] = {
    "sam": PixelScaling(PIXEL_MEAN, PIXEL_STD, stretched=False),
    "unit": PixelScaling((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), stretched=True),
}


def get_scaling(name: str) -> PixelScaling:
    """The scaling called ``name``.

    Raises:
        InputError: when there is none of that name.
    """
    found = next((scaling for known, scaling in SCALINGS.items() if known == name), None)
    if found is None:
        raise InputError(f"unknown input scaling '{name}': use {' or '.join(get_args(InputScaling))}.")
    return found


def input_scaling_of(sam: Any) -> InputScaling:
    """The input scaling that a SAM was built with; ``sam`` for one that was built elsewhere."""
    return getattr(sam, "input_scaling", "sam")
