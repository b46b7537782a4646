"""Keeps an image embedding readable: grey levels and position are predicted from it by one linear layer.

Prompted masks alone teach an encoder borders of either sign of contrast, and to forget how bright a place is and where
it lies: which is what distinguishes organs without a prompt. SAM's own encoders keep it from their masked
autoencoder, which they are pretrained as before they see a mask (arXiv 2304.02643, section 3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PARTS = 2  # of a patch, along each side


class Reader(nn.Module):
    """Predicts each patch's colours (means of its quarters) and its row and column from the image embedding.

    Args:
        channels: of the embedding.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 3 * _PARTS**2 + 2)

    def forward(self, embedding: Tensor, images: Tensor) -> Tensor:
        """Mean squared error, as a share of the targets' own variance; and the square of the embedding's constant part.

        Without the latter most of an embedding is the same for all pictures and places, and the little that differs is
        slow to learn from.

        Args:
            embedding: (B, C, h, w).
            images: (B, 3, S, S) on the 0-255 scale; S a multiple of h.
        """
        height, width = embedding.shape[-2:]
        fine = F.adaptive_avg_pool2d(images / 255, (_PARTS * height, _PARTS * width))
        colours = F.pixel_unshuffle(fine, _PARTS)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        place = torch.stack([rows / height, columns / width]).to(images).expand(len(images), -1, -1, -1)
        targets = torch.cat([colours, place], dim=1)
        spread = targets.var(dim=(0, 2, 3), keepdim=True)
        predicted = self.linear(embedding.float().movedim(1, -1)).movedim(-1, 1)
        constant = embedding.float().mean(dim=(0, 2, 3)).square().mean()
        return ((predicted - targets).square() / (spread + 1e-4)).mean() + constant
