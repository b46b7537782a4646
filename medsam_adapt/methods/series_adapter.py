"""Series adapters (Houlsby et al., arXiv 1902.00751) where InfoSAM (arXiv 2505.21920) puts them in SAM's encoder."""

from __future__ import annotations

import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted
from medsam_adapt.networks.adapter import Adapter, block_width, train_decoder


class SeriesAdapter(nn.Module):
    """y = u + W_2 GELU(W_1 u + b_1) + b_2, on tokens (..., C) -> (..., C); W_2 and b_2 start at zero, so y = u.

    Args:
        dim: channels C of a token.
        hidden: channels between ``down`` (W_1, b_1) and ``up`` (W_2, b_2).

    Raises:
        InputError: when ``hidden`` is not positive.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        if hidden < 1:
            raise InputError(f"hidden: a series adapter cannot have {hidden} hidden channels. Use 1 or more.")
        self.down, self.up = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.up(F.gelu(self.down(tokens)))


class AdaptedLayer(nn.Module):
    """A frozen layer with a series adapter on its output, tokens -> tokens.

    Args:
        layer: the layer, with an output of (..., C).
        adapter: what follows it.
    """

    def __init__(self, layer: nn.Module, adapter: SeriesAdapter) -> None:
        super().__init__()
        self.layer = layer
        self.adapter = adapter

    def forward(self, tokens: Tensor) -> Tensor:
        return self.adapter(self.layer(tokens))


class SeriesAdapters(Adapter):
    """InfoSAM's student: series adapters A_1, A_2 in the last blocks of the image encoder.

    With a = Attn(LN x) and o = MLP(LN h):

        h = x + [a + A_1(a)],    y = h + [o + A_2(o)]

    The residual stream itself passes by the adapters. The LayerNorms of those blocks and the mask decoder are
    trained too. Trainable in the encoder: 2 (2 D m + m + D) + 4 D values in each of those blocks of D channels,
    m = ratio D (5,948,160 on ViT-B).

    Args:
        ratio: hidden channels of an adapter as a fraction of the block's channels.
        first_block: index of the first block that is adapted.
    """

    def __init__(self, ratio: float = 0.25, first_block: int = 2) -> None:
        self.ratio = ratio
        self.first_block = first_block

    def attach(self, sam: Sam) -> Sam:
        """Adapt ``sam`` in place.

        Raises:
            InputError: when the encoder has no block of index ``first_block``, or the ratio leaves no channel.
        """
        blocks = list(sam.image_encoder.blocks)
        if not 0 <= self.first_block < len(blocks):
            raise InputError(
                f"first_block: series adapters cannot start at block {self.first_block} of an encoder with "
                f"{counted(len(blocks), 'block')}. Use 0 to {len(blocks) - 1}."
            )
        for block in blocks[self.first_block :]:
            dim = block_width(block)
            hidden = int(dim * self.ratio)
            # Windowed attention runs on windows: the adapter acts on each token alone, so that it makes no
            # difference whether it comes before or after the windows are put together and the padding is cropped.
            block.norm1.requires_grad_(True)
            block.norm2.requires_grad_(True)
            block.attn = AdaptedLayer(block.attn, SeriesAdapter(dim, hidden))
            block.mlp = AdaptedLayer(block.mlp, SeriesAdapter(dim, hidden))
        train_decoder(sam)
        return sam
