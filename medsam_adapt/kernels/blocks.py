"""A transformer block of SAM's encoder whose sums and normalisations go together."""

from __future__ import annotations

from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block
from torch import Tensor, nn

from medsam_adapt.kernels.attention import EncoderAttention
from medsam_adapt.kernels.feed_forward import FeedForward
from medsam_adapt.kernels.token_norm import TokenNorm


def use_fast_blocks(encoder: ImageEncoderViT) -> ImageEncoderViT:
    """Give ``encoder`` an :class:`EncoderBlock` for each of its blocks, in place; returns it.

    The names, shapes and values of all weights stay, and so does what the encoder computes, but for rounding.
    """
    encoder.blocks = nn.ModuleList(EncoderBlock(block) for block in encoder.blocks)
    return encoder


class EncoderBlock(nn.Module):
    """h = x + Attn(LN x), y = h + MLP(LN h) on a grid of tokens (B, H, W, C).

    Args:
        plain: the block that is replaced; its layers are taken over with their names, their windows by the attention.
    """

    def __init__(self, plain: Block) -> None:
        super().__init__()
        self.norm1, self.attn = TokenNorm(plain.norm1), EncoderAttention(plain.attn, plain.window_size)
        self.norm2, self.mlp = TokenNorm(plain.norm2), FeedForward(plain.mlp)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens, normed = self.norm1.after(tokens)
        tokens, normed = self.norm2.after(tokens, self.attn(normed))
        return tokens + self.mlp(normed)
