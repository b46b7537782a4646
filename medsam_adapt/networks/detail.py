"""A small U-Net on the slice itself that refines what SAM's mask decoder draws.

SAM's mask decoder draws masks at a half or a quarter of the slice's resolution, from features of 8 or 16 pixels: too
coarse for structures of a few pixels. The branch keeps the slice's own pixels (skip connections, as in Ronneberger et
al., U-Net, MICCAI 2015), takes SAM's image embedding and masks on the way, and adds its own logits to the enlarged
ones, as HQ-SAM (Ke et al., NeurIPS 2023) adds early features to SAM's mask features.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHANNELS_PER_GROUP = 8
_WIDEST = 8  # times the first level's width
_HEAD_STD = 0.05  # of 16 features of about unit variance it makes logits of about 0.2
_LEAK = 0.01


class DetailBranch(nn.Module):
    """Logits (B, K, S, S) to be added to the mask decoder's, small before training.

    Level 0 has the slice's resolution and ``width`` channels; every further level halves the first and doubles the
    second. SAM's embedding joins at the last level and its masks at the first but one.

    Args:
        masks: K, number of masks that the decoder draws.
        embedding: D, channels of SAM's image embedding.
        width: channels at the slice's resolution, a multiple of 8.
        levels: number of resolutions, at most 5 (a slice's side is a multiple of 16).
        colours: channels of the slice, and of the coordinates where it sees them.
    """

    def __init__(self, masks: int, embedding: int, width: int = 16, levels: int = 4, colours: int = 3) -> None:
        super().__init__()
        self.colours = colours
        widths = [width * min(2**level, _WIDEST) for level in range(levels)]
        first = [_convolution(colours, widths[0], stride=1)]
        self.down = nn.ModuleList(
            nn.Sequential(
                *(first if level == 0 else [_convolution(widths[level - 1], own, stride=2)]), _convolution(own)
            )
            for level, own in enumerate(widths)
        )
        self.embedding = nn.Conv2d(embedding, widths[-1], 1)
        self.masks = nn.Conv2d(masks, widths[1], 1)
        self.bottom = _convolution(2 * widths[-1], widths[-1])
        self.reduce = nn.ModuleList(nn.Conv2d(below, own, 1) for own, below in pairwise(widths))
        self.up = nn.ModuleList(_convolution(2 * own, own) for own in widths[:-1])
        self.head = nn.Conv2d(widths[0], masks, 1)
        assert self.head.bias is not None
        # Not zero: the layers before it would get no gradient, and few-pixel classes would stay empty for long.
        nn.init.normal_(self.head.weight, std=_HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor, embedding: Tensor, masks: Tensor) -> Tensor:
        """Logits (B, K, S, S).

        Args:
            image: (B, colours, S, S), normalised as SAM's encoder takes it, coordinates behind it as they are.
            embedding: (B, D, h, w), of SAM's image encoder.
            masks: (B, K, s, s), logits of the mask decoder.
        """
        levels = []
        features = image
        for stage in self.down:
            features = stage(features)
            levels.append(features)
        of_sam = _resized(self.embedding(embedding), features)
        features = self.bottom(torch.cat([features, of_sam], dim=1))
        for level in reversed(range(len(self.up))):
            above = levels[level]
            features = F.interpolate(self.reduce[level](features), scale_factor=2.0, mode="nearest")
            if level == 1:
                features = features + _resized(self.masks(masks.tanh()), above)
            features = self.up[level](torch.cat([features, above], dim=1))
        return self.head(features)


def _convolution(channels: int, out: int | None = None, stride: int = 1) -> nn.Sequential:
    out = channels if out is None else out
    convolution = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, _LEAK)
    return nn.Sequential(
        convolution,
        nn.GroupNorm(max(1, out // _CHANNELS_PER_GROUP), out),
        nn.LeakyReLU(_LEAK, inplace=True),
    )


def _resized(features: Tensor, like: Tensor) -> Tensor:
    if features.shape[-2:] == like.shape[-2:]:
        return features
    return F.interpolate(features, like.shape[-2:], mode="bilinear", align_corners=False)
