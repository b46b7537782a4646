"""SAM's first layer for more images than colours: each of its filters learns a mixture of the images.

SAM's first convolution has a filter W[d, j] for each of D channels and each of three colours j. For C images it becomes

    W'[d, c] = Σ_j M[d, c, j] W[d, j]

with trainable M (D, C, 3): 9,216 values for four images on ViT-B, where free filters would have 786,432. At the start
the first three images are SAM's colours and the others add nothing, so that the network is SAM. It is linear in the
images, so it merges into one plain convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medsam_adapt.data.volumes.image_set import MOST_IMAGES

COLOURS = 3


class ImageMixture(nn.Module):
    """The parametrisation of a convolution's weight (D, 3, k, k) as one of C images (D, C, k, k).

    Args:
        filters: D.
        images: C.
    """

    def __init__(self, filters: int, images: int) -> None:
        super().__init__()
        self.mixture = nn.Parameter(torch.eye(images, COLOURS).repeat(filters, 1, 1))

    def forward(self, weight: Tensor) -> Tensor:
        return torch.einsum("dcj,djhw->dchw", self.mixture, weight)


def mix_images(sam: Any, images: int) -> None:
    """Let a SAM take C images instead of three colours, in place; what mixes them is trained.

    A further image is normalised by the mean over SAM's colours.

    Args:
        sam: from `build_sam`; its other weights stay as they are.
        images: C, 4 or more.
    """
    layer = _first_layer(sam.image_encoder)
    mixture = ImageMixture(layer.out_channels, images).to(layer.weight.device)
    parametrize.register_parametrization(layer, "weight", mixture, unsafe=True)
    layer.in_channels = images
    for name in ("pixel_mean", "pixel_std"):
        values = getattr(sam, name)
        more = values.mean(dim=0, keepdim=True).expand(images - COLOURS, 1, 1)
        setattr(sam, name, torch.cat([values, more]))


def merge_images(sam: Any) -> None:
    """Fold the mixture into the first convolution, in place; nothing is done to a SAM that takes three colours."""
    layer = _first_layer(sam.image_encoder)
    if parametrize.is_parametrized(layer, "weight") and _mixture(layer) is not None:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        layer.weight.requires_grad_(False)


def images_of(sam: Any) -> int:
    """How many images, or colours, a SAM takes."""
    return int(sam.pixel_mean.shape[0])


def _mixture(layer: nn.Module) -> ImageMixture | None:
    parametrizations: Any = layer.parametrizations
    return next((each for each in parametrizations.weight if isinstance(each, ImageMixture)), None)


def _first_layer(encoder: nn.Module) -> nn.Conv2d:
    """The convolution that sees the images: the patch embedding, or the first of a TinyViT's stem."""
    layers = (layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d) and layer.groups == 1)
    return next(layer for layer in layers if layer.in_channels in (COLOURS, MOST_IMAGES))
