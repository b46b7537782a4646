"""SAM 2's prompt encoder and mask decoder for single images (arXiv 2408.00714), on segment-anything's modules.

Its decoder differs from SAM's in a token for whether the object is there, and in the features of the encoder's first
two stages that are added while masks are enlarged. What belongs to videos (memory, object pointers) is left out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from medsam_adapt.networks.hiera import Hiera


class Sam2PromptEncoder(PromptEncoder):
    """SAM's prompt encoder; SAM 2 takes boxes as two points, which it pads with an empty one as it does clicks."""

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        corners = super()._embed_boxes(boxes)
        return torch.cat([corners, self.not_a_point_embed.weight.expand(len(corners), 1, -1)], dim=1)


class Sam2MaskDecoder(MaskDecoder):
    """SAM 2's mask decoder; arguments as for segment-anything's. :class:`Segmenter` runs it.

    Attributes:
        obj_score_token: the first of the decoder's tokens.
        pred_obj_score_head: whether the object is there; like the mask quality, no loss of ours reaches it.
        conv_s0, conv_s1: from features of the encoder's stages 1 and 2 to what is added to the masks' features.
    """

    def __init__(self, *, transformer_dim: int, **arguments: Any) -> None:
        super().__init__(transformer_dim=transformer_dim, **arguments)
        self.obj_score_token = nn.Embedding(1, transformer_dim)
        self.pred_obj_score_head = MLP(transformer_dim, transformer_dim, 1, 3)
        self.conv_s0 = nn.Conv2d(transformer_dim, transformer_dim // 8, 1)
        self.conv_s1 = nn.Conv2d(transformer_dim, transformer_dim // 4, 1)


def own_tokens(decoder: MaskDecoder) -> Tensor:
    """The tokens of a mask decoder that come before those of the prompt, (T, D), the mask tokens last."""
    tokens = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    if isinstance(decoder, Sam2MaskDecoder):
        tokens.insert(0, decoder.obj_score_token.weight)
    return torch.cat(tokens)


def split_embedding(encoder: nn.Module, encoded: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The image embedding (B, D, h, w) in what an image encoder returns, and the finer features beside it."""
    if not isinstance(encoder, Hiera):
        return encoded, []
    embedding, *finer = encoder.split(encoded)
    return embedding, finer


def enlarged(decoder: MaskDecoder, encoder: nn.Module, pixels: Tensor, finer: list[Tensor]) -> Tensor:
    """Features of the masks' pixels (B, D / 8, 4 h, 4 w) from those of the transformer (B, D, h, w).

    Args:
        decoder: SAM's or SAM 2's.
        encoder: the image encoder.
        pixels: of the transformer.
        finer: of the encoder, from :func:`split_embedding`.
    """
    if not isinstance(decoder, Sam2MaskDecoder):
        return decoder.output_upscaling(pixels)
    assert isinstance(encoder, Hiera), "SAM 2 has no other"
    first, second = finer
    enlarge, norm, activation, enlarge_again, last = decoder.output_upscaling
    pixels = activation(norm(enlarge(pixels) + _in_one(encoder.neck.convs[2], decoder.conv_s1, second)))
    return last(enlarge_again(pixels) + _in_one(encoder.neck.convs[3], decoder.conv_s0, first))


def drawn(decoder: MaskDecoder, encoder: nn.Module, pixels: Tensor, finer: list[Tensor], filters: Tensor) -> Tensor:
    """Masks (B, K, 4 h, 4 w), the products of the pixels' enlarged features with filters (B, K, D / 8).

    Other arguments as for :func:`enlarged`.
    """
    faster = None if finer else getattr(decoder.output_upscaling, "draw", None)
    masks = None if faster is None else faster(pixels, filters)
    if masks is None:
        masks = torch.einsum("bkc,bchw->bkhw", filters, enlarged(decoder, encoder, pixels, finer))
    return masks


def _in_one(first: nn.Module, second: nn.Conv2d, features: Tensor) -> Tensor:
    """Two 1 x 1 convolutions in a row as one, without the wide features between them."""
    assert isinstance(first, nn.Conv2d), "made so"
    assert first.bias is not None, "made so"
    assert second.bias is not None, "made so"
    outer = second.weight.flatten(1)
    weight = outer @ first.weight.flatten(1)
    return F.conv2d(features, weight[:, :, None, None], outer @ first.bias + second.bias)
