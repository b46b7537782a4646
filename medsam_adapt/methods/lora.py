"""Low-rank adaptation (LoRA, arXiv 2106.09685) of SAM's image encoder, and of its mask decoder as BLO-SAM uses it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from medsam_adapt.core.errors import InputError
from medsam_adapt.networks.adapter import Adapter, train_decoder


def low_rank_pair(in_features: int, out_features: int, rank: int) -> tuple[nn.Linear, nn.Linear]:
    """A (Kaiming-uniform) and B (zero): x -> B A x is zero at the start.

    Raises:
        InputError: when the rank is not between 1 and the layer's smaller side.
    """
    if not 1 <= rank <= min(in_features, out_features):
        raise InputError(f"LoRA rank {rank} is impossible here: use 1 to {min(in_features, out_features)}.")
    down, up = nn.Linear(in_features, rank, bias=False), nn.Linear(rank, out_features, bias=False)
    nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
    nn.init.zeros_(up.weight)
    return down, up


class LoRALinear(nn.Module):
    """y = W x + b + B A x, on tokens (..., in) -> (..., out); W and b are the frozen layer's.

    Args:
        linear: the layer that is adapted.
        rank: width of A x.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = linear
        self.a, self.b = low_rank_pair(linear.in_features, linear.out_features, rank)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.base(tokens) + self.b(self.a(tokens))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer with W + B A."""
        self.base.weight += self.b.weight @ self.a.weight
        return self.base


class LoRAQueryValue(nn.Module):
    """q += B_q A_q x and v += B_v A_v x on a fused layer x -> [q | k | v]; k is untouched.

    The rows of a TinyViT's layer are [q | k | v] of each head in turn; those of B belong to the heads in turn then.

    Args:
        qkv: the fused layer, (..., D) -> (..., 3 D); in SAM 2 the first of a stage gives (..., 6 D).
        rank: width of A x.
    """

    def __init__(self, qkv: nn.Linear, rank: int) -> None:
        super().__init__()
        self.qkv = qkv
        self.heads = getattr(qkv, "heads", 1)  # parts of [q | k | v]
        dim, dim_out = qkv.in_features, qkv.out_features // 3
        self.a_q, self.b_q = low_rank_pair(dim, dim_out, rank)
        self.a_v, self.b_v = low_rank_pair(dim, dim_out, rank)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.added(self.qkv(tokens), self.b_q(self.a_q(tokens)), self.b_v(self.a_v(tokens)))

    def added(self, plain: Tensor, to_q: Tensor, to_v: Tensor) -> Tensor:
        """What the fused layer gave (..., 3 D), with increments (..., D) of its q and its v."""
        q, k, v = plain.unflatten(-1, (self.heads, 3, -1)).unbind(-2)
        return torch.stack([q + to_q.view_as(q), k, v + to_v.view_as(v)], dim=-2).flatten(-3)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain fused layer with the increments added to its q and v rows."""
        return self.with_rows(self.b_q.weight @ self.a_q.weight, self.b_v.weight @ self.a_v.weight)

    def with_rows(self, to_q: Tensor, to_v: Tensor) -> nn.Linear:
        """The plain fused layer, with increments (D, D) of its q and v rows added in place."""
        rows = self.qkv.weight.unflatten(0, (self.heads, 3, -1))
        for place, increment in ((0, to_q), (2, to_v)):
            rows[:, place] += increment.unflatten(0, (self.heads, -1))
        return self.qkv


class LoRA(Adapter):
    """LoRA on q and v of every block of the image encoder; the mask decoder is tuned beside it.

    Trainable in the encoder: 4 L r D values for L blocks of D channels (147,456 on ViT-B with rank 4).

    Args:
        rank: width of the low-rank products.
    """

    mergeable = True

    def __init__(self, rank: int = 4) -> None:
        self.rank = rank

    def attach(self, sam: Sam) -> Sam:
        for block in sam.image_encoder.blocks:
            block.attn.qkv = LoRAQueryValue(block.attn.qkv, self.rank)
        train_decoder(sam)
        return sam

    def merge(self, sam: Sam) -> Sam:
        for block in sam.image_encoder.blocks:
            block.attn.qkv = block.attn.qkv.merged()
        return sam


class DecoderLoRA(Adapter):
    """BLO-SAM's layers (arXiv 2402.16338): LoRA on q and v of every attention in the mask decoder's transformer.

    The rest of the transformer stays frozen, and the decoder outside the transformer is tuned.

    Args:
        rank: width of the low-rank products.
    """

    mergeable = True

    def __init__(self, rank: int = 4) -> None:
        self.rank = rank

    def attach(self, sam: Sam) -> Sam:
        train_decoder(sam, transformer=False)
        for attention in decoder_attentions(sam):
            attention.q_proj = LoRALinear(attention.q_proj, self.rank)
            attention.v_proj = LoRALinear(attention.v_proj, self.rank)
        return sam

    def merge(self, sam: Sam) -> Sam:
        for attention in decoder_attentions(sam):
            attention.q_proj = attention.q_proj.merged()
            attention.v_proj = attention.v_proj.merged()
        return sam


def decoder_attentions(sam: Sam) -> Iterator[Any]:
    """Every attention of the mask decoder's transformer: self, token to image, image to token, and the final one."""
    transformer = sam.mask_decoder.transformer
    for layer in transformer.layers:
        yield from (layer.self_attn, layer.cross_attn_token_to_image, layer.cross_attn_image_to_token)
    yield transformer.final_attn_token_to_image
