"""The patch embedding of SAM's encoder as a linear layer of the pixels of each patch."""

from __future__ import annotations

import torch.nn.functional as F
from segment_anything.modeling.image_encoder import PatchEmbed
from torch import Tensor, nn

from medsam_adapt.core.precision import is_recorded


class PatchEmbedding(nn.Module):
    """Images (B, 3, S, S) to tokens (B, h, w, C), contiguous: channels of a token side by side.

    The convolution that it replaces has patches beside each other for its windows. As such libraries take long with
    it: 8 images of 1024 pixels took an H200 2.1 ms, a tenth of all that ViT-B does with them.

    Args:
        plain: the layer that is replaced; its convolution is taken over.
    """

    def __init__(self, plain: PatchEmbed) -> None:
        super().__init__()
        self.proj = plain.proj

    def forward(self, images: Tensor) -> Tensor:
        if is_recorded():
            return self.proj(images).permute(0, 2, 3, 1)
        rows, columns = self.proj.kernel_size
        batch, channels, height, width = images.shape
        patches = images.reshape(batch, channels, height // rows, rows, width // columns, columns)
        pixels = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(pixels, self.proj.weight.flatten(1), self.proj.bias)
