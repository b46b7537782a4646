"""Features of an unchanged slice, moved as the augmentation moved the slice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SHOWN = 0.3  # of a patch, below which it lies outside the slice


def moved_features(features: Tensor, position: Tensor) -> Tensor:
    """The features that belong to augmented slices, (B, D, h, w), bilinear between those of the unchanged ones.

    Patches that come from outside of a slice get those of its last corner, which is padding or air. It is an
    approximation: an encoder would not turn its features exactly as its image is turned.

    Args:
        features: of the unchanged slices, (B, D, h, w).
        position: (B, 3, S, S): for each pixel of the augmented slices the column and row that it comes from, in pixels
            of the square, with a share in 0..1 by which both were multiplied where the slice ends.
    """
    side = position.shape[-1]
    means = F.interpolate(position, features.shape[-2:], mode="area")
    share = means[:, 2:]
    place = means[:, :2] / share.clamp(min=_SHOWN) * (2 / side) - 1  # as grid_sample counts: -1 to 1
    place = torch.where(share >= _SHOWN, place, torch.ones_like(place))
    grid = place.permute(0, 2, 3, 1).to(features.dtype)
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=False)
