"""SAM's mask decoder on a processor, where nothing needs a gradient: the few tokens are projected, not all pixels.

A decoder has about seven tokens t, and thousands of pixels x. A head scores t at x by (W_q t + b)·(W_k x + c), which is
W_k'(W_q t + b)·x but for a constant that the softmax over x cancels. Its result is W_v Σ p x + d. So the tokens' side
is brought to the width of the pixels and no pixel is projected; from pixels to tokens likewise. Where several prompts
point at one image, the first layer's pixels are the same for all of them, and are projected once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from medsam_adapt.kernels import onednn
from medsam_adapt.kernels.onednn import needs_no_gradient

_VALUES = 2**20  # of pixels' features at a time; 4 MB in float32
_SHARED = 3  # prompts for one image, from which on projecting its pixels once takes less time


def install_tokens(decoder: MaskDecoder) -> None:
    """Replace the transformer and the enlarging layers of ``decoder``, in place; names, weights and results stay."""
    decoder.transformer = TransformerOfTokens(decoder.transformer)
    decoder.output_upscaling = MasksByParts(decoder.output_upscaling)


class TransformerOfTokens(TwoWayTransformer):
    """SAM's two-way transformer; the layers of ``plain`` are taken over."""

    def __init__(self, plain: TwoWayTransformer) -> None:
        nn.Module.__init__(self)
        self.layers = plain.layers
        self.final_attn_token_to_image = plain.final_attn_token_to_image
        self.norm_final_attn = plain.norm_final_attn  # in the order of plain's, which is that of the parameters

    def forward(self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, D) and pixels (B, N, D); arguments as segment-anything's, of which B may be expanded from 1."""
        if not self._outdoes(image_embedding, image_pe, point_embedding):
            return super().forward(image_embedding, image_pe, point_embedding)
        pixels, places = (each.flatten(2).transpose(1, 2) for each in (image_embedding, image_pe[:1]))
        places = places.contiguous()
        first, *others = self.layers
        shared = len(pixels) >= _SHARED and pixels.stride(0) == 0
        if shared:
            tokens, scores, values = _of_one_image(first, point_embedding, pixels[:1].contiguous(), places)
        found, drawn = [], torch.empty(pixels.shape, dtype=pixels.dtype)
        step = max(1, _VALUES // pixels[0].numel())
        for start in range(0, len(pixels), step):
            part = slice(start, start + step)
            own = point_embedding[part]
            if shared:
                state = tokens[part], _with_tokens(first, pixels[part], scores[part], values[part])
            else:
                state = _layer(first, own, own, pixels[part].contiguous(), places)
            for layer in others:
                state = _layer(layer, state[0], own, state[1], places)
            mixed = _from_pixels(self.final_attn_token_to_image, state[0] + own, state[1] + places, state[1])
            found.append(self.norm_final_attn(state[0] + mixed))
            drawn[part] = state[1]
        return torch.cat(found), drawn

    def _outdoes(self, embedding: Tensor, positions: Tensor, tokens: Tensor) -> bool:
        """Whether this form is allowed here and takes less: plain layers, one grid of positions, and few tokens."""
        if not needs_no_gradient(embedding, self) or tokens.requires_grad or torch.is_autocast_enabled("cpu"):
            return False
        attention = self.final_attn_token_to_image
        if tokens.shape[1] * attention.num_heads > attention.internal_dim:
            return False
        one_grid = len(positions) == 1 or positions.stride(0) == 0
        layers = (module for name, module in self.named_modules() if name.endswith("_proj"))
        return one_grid and all(type(layer).forward is nn.Linear.forward for layer in layers)


def _layer(layer: Any, tokens: Tensor, own: Tensor, pixels: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """One layer of the transformer, with tokens (B, T, D) whose first values are ``own``, and pixels (B, N, D)."""
    tokens, placed = _among_tokens(layer, tokens, own), pixels + places
    attended = _from_pixels(layer.cross_attn_token_to_image, tokens + own, placed, pixels)
    tokens = _fed_forward(layer, tokens + attended)
    attention = layer.cross_attn_image_to_token
    keys, offsets = _in_width_of_pixels(attention, tokens + own)
    scores = offsets + onednn.product(keys, placed)
    return tokens, _with_tokens(layer, pixels, scores, _values(attention, tokens))


def _of_one_image(layer: Any, own: Tensor, pixels: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first layer, for tokens (B, T, D) of prompts on one image (1, N, D), up to what its pixels take from them.

    Returns:
        tokens (B, T, D), and scores (B, heads T, N) and values (B, heads T, D) as :func:`_with_tokens` takes them.
    """
    batch, count, _ = own.shape
    tokens, placed = _among_tokens(layer, own, own), pixels + places
    attention = layer.cross_attn_token_to_image
    queries = _by_heads(attention, attention.q_proj(tokens + own)).transpose(0, 1).flatten(1, 2)[None]
    keys, values = (_by_heads(attention, each) for each in (attention.k_proj(placed), attention.v_proj(pixels)))
    mixed = F.scaled_dot_product_attention(queries, keys, values)[0].unflatten(1, (batch, count))
    tokens = _fed_forward(layer, tokens + attention.out_proj(mixed.permute(1, 2, 0, 3).flatten(2)))
    attention = layer.cross_attn_image_to_token
    queries = _by_heads(attention, attention.q_proj(placed))[0]
    keys = _by_heads(attention, attention.k_proj(tokens + own)) * queries.shape[-1] ** -0.5
    scores = (keys.transpose(0, 1).flatten(1, 2) @ queries.transpose(1, 2)).unflatten(1, (batch, count))
    return tokens, scores.transpose(0, 1).flatten(1, 2), _values(attention, tokens)


def _among_tokens(layer: Any, tokens: Tensor, own: Tensor) -> Tensor:
    if layer.skip_first_layer_pe:
        return layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))
    placed = tokens + own
    return layer.norm1(tokens + layer.self_attn(q=placed, k=placed, v=tokens))


def _fed_forward(layer: Any, tokens: Tensor) -> Tensor:
    tokens = layer.norm2(tokens)
    return layer.norm3(tokens + layer.mlp(tokens))


def _from_pixels(attention: Any, tokens: Tensor, placed: Tensor, pixels: Tensor) -> Tensor:
    """Attention of tokens (B, T, D) to pixels (B, N, D), with and without their places."""
    queries = _by_heads(attention, attention.q_proj(tokens))
    queries = (queries * queries.shape[-1] ** -0.5) @ _weights_by_heads(attention, attention.k_proj)
    shares = onednn.product(queries.flatten(1, 2), placed).softmax(dim=-1)
    mixed = onednn.product(shares, pixels.transpose(1, 2)).unflatten(1, (attention.num_heads, -1))
    results = mixed @ _weights_by_heads(attention, attention.v_proj).transpose(1, 2)
    return attention.out_proj(results.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def _in_width_of_pixels(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What pixels are multiplied with, (B, heads T, D), and what is added, (B, heads T, 1), to be a token's scores."""
    keys = _by_heads(attention, attention.k_proj(tokens))
    keys = keys * keys.shape[-1] ** -0.5
    added = (keys * attention.q_proj.bias.unflatten(0, (attention.num_heads, 1, -1))).sum(dim=-1)
    return (keys @ _weights_by_heads(attention, attention.q_proj)).flatten(1, 2), added.flatten(1)[..., None]


def _values(attention: Any, tokens: Tensor) -> Tensor:
    """What the pixels take from each token by each head, (B, heads T, D); a head's shares of all tokens add up to 1."""
    out = attention.out_proj
    projection = out.weight.unflatten(1, (attention.num_heads, -1)).permute(1, 2, 0)
    values = _by_heads(attention, attention.v_proj(tokens)) @ projection
    return (values + out.bias / attention.num_heads).flatten(1, 2)


def _with_tokens(layer: Any, pixels: Tensor, scores: Tensor, values: Tensor) -> Tensor:
    """Pixels (B, N, D) after a layer, from scores (B, heads T, N) and values (B, heads T, D)."""
    heads = layer.cross_attn_image_to_token.num_heads
    shares = scores.unflatten(1, (heads, -1)).softmax(dim=2).flatten(1, 2)
    return layer.norm4(torch.baddbmm(pixels, shares.transpose(1, 2), values))


def _by_heads(attention: Any, projected: Tensor) -> Tensor:
    """(B, n, heads d) as (B, heads, n, d)."""
    return projected.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _weights_by_heads(attention: Any, layer: nn.Linear) -> Tensor:
    """(heads, d, D)."""
    return layer.weight.unflatten(0, (attention.num_heads, -1))


class MasksByParts(nn.Sequential):
    """The layers that enlarge the pixels' features fourfold; those of ``plain`` are taken over."""

    def __init__(self, plain: nn.Sequential) -> None:
        super().__init__(*plain)

    def draw(self, pixels: Tensor, filters: Tensor) -> Tensor | None:
        """Masks (B, K, 4 h, 4 w) of pixels (B, D, h, w) with filters (B, K, D / 8); None where gradients are needed.

        The enlarged features are made for a part of the pixels at a time, and are not kept.
        """
        if not needs_no_gradient(pixels, self) or filters.requires_grad or torch.is_autocast_enabled("cpu"):
            return None
        return torch.stack([self._of_one(*each) for each in zip(pixels, filters, strict=True)])

    def _of_one(self, pixels: Tensor, filters: Tensor) -> Tensor:
        enlarge, norm, activation, again, last = self
        assert isinstance(enlarge, nn.ConvTranspose2d), "SAM's decoder has these"
        assert isinstance(again, nn.ConvTranspose2d), "SAM's decoder has these"
        assert isinstance(norm, LayerNorm2d), "SAM's decoder has these"
        height, width = (int(side) for side in pixels.shape[1:])
        (into, added), (into_again, added_again) = _as_product(enlarge), _as_product(again)
        shape = [enlarge.out_channels]
        parts = []
        for part in pixels.flatten(1).T.split(max(1, _VALUES // (4 * len(pixels)))):
            features = onednn.linear(part, into, added).view(-1, *shape)
            features = activation(F.layer_norm(features, shape, norm.weight, norm.bias, norm.eps))
            features = last(onednn.linear(features, into_again, added_again)).view(-1, again.out_channels)
            parts.append(onednn.linear(features, filters, None))
        masks = torch.cat(parts).view(height, width, 2, 2, 2, 2, -1)  # rows and columns of both enlargements
        return masks.permute(6, 0, 2, 4, 1, 3, 5).reshape(-1, 4 * height, 4 * width)


def _as_product(layer: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Weight (4 out, in) and bias (4 out,) of a layer that makes 2 x 2 pixels of one: rows, columns, channels."""
    assert layer.bias is not None, "SAM's decoder has it"
    return layer.weight.permute(2, 3, 1, 0).flatten(0, 2), layer.bias.repeat(4)
