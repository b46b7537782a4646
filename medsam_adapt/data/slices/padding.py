"""Slices padded to the square that a network takes, without MONAI, so that a run is loaded quickly."""

from __future__ import annotations

import torch

from medsam_adapt.config import InputScaling
from medsam_adapt.weights.pixel_scaling import get_scaling


def pad_image(image: torch.Tensor, image_size: int, input_scaling: InputScaling = "sam") -> torch.Tensor:
    """Slices as a network takes them: (..., 3, h, w) -> (..., 3, S, S), both on the 0-255 scale.

    Args:
        image: grey levels or colours, windowed and resized; or more channels, one for each image of a case.
        image_size: S, in pixels.
        input_scaling: of the network. For ``unit`` each slice is stretched to 0-255 before it is padded. The padding,
            right and bottom, is what the network's normalisation turns into zeros.
    """
    scaling = get_scaling(input_scaling)
    image = scaling.stretch(image)
    *batch, channels, height, width = image.shape
    canvas = torch.empty(*batch, channels, image_size, image_size, device=image.device)
    canvas[..., :height, :width] = image
    for channel, mean in enumerate(scaling.means(channels)):  # numbers: a tensor of them would wait for the device
        canvas[..., channel, height:, :] = mean
        canvas[..., channel, :height, width:] = mean
    return canvas


def pad_label(label: torch.Tensor, image_size: int) -> torch.Tensor:
    """(..., h, w) -> (..., S, S), padded right and bottom with background."""
    return torch.nn.functional.pad(label, (0, image_size - label.shape[-1], 0, image_size - label.shape[-2]))
