"""Networks with the layers of this folder, and a transformer block without window padding."""

from __future__ import annotations

from segment_anything.modeling import ImageEncoderViT, MaskDecoder
from segment_anything.modeling.image_encoder import Block
from torch import Tensor, nn

from medsam_adapt.kernels.attention import EncoderAttention
from medsam_adapt.kernels.conv_bands import install_bands
from medsam_adapt.kernels.feed_forward import FeedForward, by_parts
from medsam_adapt.kernels.mask_decoder import install_tokens
from medsam_adapt.kernels.onednn import by_layer, needs_no_gradient
from medsam_adapt.kernels.patches import PatchEmbedding
from medsam_adapt.networks.hiera import Block as HieraBlock
from medsam_adapt.networks.hiera import Hiera
from medsam_adapt.networks.tiny_vit import TinyViT


def install(encoder: ImageEncoderViT | TinyViT | Hiera | MaskDecoder) -> None:
    """Replace the patch embedding and all blocks of ``encoder``, or what is slow in a TinyViT or Hiera, in place.

    Of a mask decoder the transformer and the layers that enlarge masks are replaced. The names, shapes and values of
    all weights stay, and so does what the network computes, but for rounding.
    """
    if isinstance(encoder, MaskDecoder):
        install_tokens(encoder)
        return
    if isinstance(encoder, TinyViT):
        install_bands(encoder)
        return
    if isinstance(encoder, Hiera):
        for each in encoder.blocks:
            assert isinstance(each, HieraBlock), "a Hiera has no others"
            each.mlp = LinearByOneDNN(each.mlp)
        return
    encoder.patch_embed = PatchEmbedding(encoder.patch_embed)
    encoder.blocks = nn.ModuleList(EncoderBlock(block) for block in encoder.blocks)


class LinearByOneDNN(FeedForward):
    """The feed-forward layers, by oneDNN with their GELU where nothing needs a gradient."""

    def forward(self, tokens: Tensor) -> Tensor:
        if type(self.act) is not nn.GELU or self.act.approximate != "none" or not needs_no_gradient(tokens, self):
            return super().forward(tokens)
        return by_parts(tokens, self._inside_at_once, lambda inside: by_layer(inside, self.lin2))

    def _inside_at_once(self, tokens: Tensor) -> Tensor:
        return by_layer(tokens, self.lin1, gelu=True)


class EncoderBlock(nn.Module):
    """h = x + Attn(LN x), y = h + MLP(LN h) on a grid of tokens (B, H, W, C).

    Args:
        plain: the block that is replaced; its layers are taken over with their names. The attention divides the grid
            into windows itself.
    """

    def __init__(self, plain: Block) -> None:
        super().__init__()
        self.window_size = plain.window_size
        self.norm1, self.attn = plain.norm1, EncoderAttention(plain.attn, plain.window_size)
        self.norm2, self.mlp = plain.norm2, LinearByOneDNN(plain.mlp)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))
