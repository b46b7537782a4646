"""SAM's image-encoder attention, exact, without the matrix of position biases and without computing window padding.

The score of a query q at (i, j) with a key k at (y, x) is q · k / √d + q · R_h[i - y] + q · R_w[j - x]. The last two
terms have few values, rel_h (query, row of the key) and rel_w (query, column of the key), which are put together where
the scores are made: on the CPU in tiles that fit into its caches (attention_tiles.py), on a GPU in a fused kernel
(attention_fused.py), and by whatever kernel for plain attention there is, of longer vectors, everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from medsam_adapt.networks.attention_fused import can_fuse, fused
from medsam_adapt.networks.attention_tiles import apart, flattened, tiled
from medsam_adapt.networks.products import TokenLinear
from medsam_adapt.networks.running import is_recorded

Part = tuple[Sequence[Tensor], Tensor, Tensor]  # as `tiled` takes them
_TOKENS = 2048  # at a time, in windows; what is made of all tokens at 1024 pixels would not stay in the caches
_ALIGNMENT = 8  # fused kernels want vectors of a multiple of this


def use_fast_attention(encoder: ImageEncoderViT) -> ImageEncoderViT:
    """Give every block of ``encoder`` an :class:`EncoderAttention`, in place; returns it.

    The names, shapes and values of all weights stay, and so does what the encoder computes, but for rounding.
    """
    for block in encoder.blocks:
        block.attn = EncoderAttention(block.attn, block.window_size)
        block.window_size = 0  # the block hands over the whole grid of tokens
    return encoder


class EncoderAttention(nn.Module):
    """Attention with relative positions over a grid of tokens, (B, H, W, C) -> (B, H, W, C).

    ``qkv`` and ``proj`` see real tokens only. The tokens with which segment-anything fills up windows are zero before
    ``qkv``; one such token is enough to know the keys and values of all.

    Args:
        plain: the attention that is replaced; its layers are taken over.
        window: side of a window in tokens, 0 for attention over the whole grid.
    """

    def __init__(self, plain: Attention, window: int) -> None:
        super().__init__()
        self.window = window
        self.num_heads, self.scale = plain.num_heads, plain.scale
        self.rel_pos_h, self.rel_pos_w = plain.rel_pos_h, plain.rel_pos_w
        self.qkv, self.proj = TokenLinear(plain.qkv), TokenLinear(plain.proj)

    def forward(self, tokens: Tensor) -> Tensor:
        height, width = int(tokens.shape[1]), int(tokens.shape[2])  # fixed in a recording
        padded = self.window > 0 and (height % self.window > 0 or width % self.window > 0)
        fill = self.qkv(tokens.new_zeros(1, tokens.shape[3]))[0] if padded else None
        rows = height
        if self.window and tokens.device.type == "cpu" and not is_recorded() and tokens.shape[:3].numel() > _TOKENS:
            rows = self.window * max(1, _TOKENS // (tokens.shape[0] * width * self.window))
        return _joined([self._rows(part, fill) for part in tokens.split(rows, dim=1)], dim=1)

    def _rows(self, tokens: Tensor, fill: Tensor | None) -> Tensor:
        """Attention in all windows of some rows of the grid; ``fill`` (3 C,) is what ``qkv`` makes of padding."""
        mixed = [attend(*part, self.scale) for part in self._parts(self.qkv(tokens), fill)]
        return self.proj(self._put_together(mixed, *tokens.shape[:3]))

    def _parts(self, qkv: Tensor, fill: Tensor | None) -> list[Part]:
        """What :func:`attend` takes, for each part of the grid whose windows are of one size, row by row of parts."""
        height, width = int(qkv.shape[1]), int(qkv.shape[2])
        window = self.window or max(height, width)
        parts = []
        rows, columns = _strips(height, window), _strips(width, window)
        for strip, (_, down) in zip(_divided(qkv, rows, dim=1), rows, strict=True):
            for part, (_, across) in zip(_divided(strip, columns, dim=2), columns, strict=True):
                parts.append(self._part(part, down, across, fill))
        return parts

    def _part(self, qkv: Tensor, down: int, across: int, fill: Tensor | None) -> Part:
        """(B, H, W, 3 C) to queries, keys, values and tables of ``down`` times ``across`` windows."""
        batch, height, width = qkv.shape[:3]
        rows, columns = int(height) // down, int(width) // across
        parts = qkv.reshape(batch, down, rows, across, columns, 3, self.num_heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
        flat = parts.reshape(3, -1, rows * columns, parts.shape[-1])  # copied, unless it is all heads of one image
        tensors: Sequence[Tensor] = (flat.reshape(3, -1, rows, columns, parts.shape[-1]),)
        size = rows, columns
        if self.window and size != (self.window, self.window):
            assert fill is not None, "made where windows are padded"
            query, key, value = apart(tensors)
            _, fill_key, fill_value = fill.reshape(3, self.num_heads, 1, 1, -1)
            tensors = query, self._filled(key, fill_key), self._filled(value, fill_value)
            size = self.window, self.window
        table_h = _relative(self.rel_pos_h, size[0])[:rows].to(qkv.dtype)
        return tensors, table_h, _relative(self.rel_pos_w, size[1])[:columns].to(qkv.dtype)

    def _put_together(self, mixed: Sequence[Tensor], batch: int, height: int, width: int) -> Tensor:
        """(B, H, W, C) of what :func:`attend` made of each part."""
        window = self.window or max(int(height), int(width))
        found, rows = iter(mixed), []
        for top, down in _strips(int(height), window):
            row = []
            for left, across in _strips(int(width), window):
                sides = top // down, left // across
                part = next(found).reshape(batch, down, across, self.num_heads, *sides, -1).permute(0, 1, 4, 2, 5, 3, 6)
                row.append(part.reshape(batch, down * sides[0], across * sides[1], -1))
            rows.append(_joined(row, dim=2))
        return _joined(rows, dim=1)

    def _filled(self, tokens: Tensor, fill: Tensor) -> Tensor:
        """(N heads, rows, columns, d) made as large as a window, with ``fill`` (heads, 1, 1, d) below and right."""
        rows, columns = tokens.shape[1:3]
        fill = fill.expand(tokens.shape[0] // self.num_heads, -1, -1, -1, -1).flatten(0, 1)
        right = fill.expand(-1, rows, self.window - columns, -1)
        below = fill.expand(-1, self.window - rows, self.window, -1)
        return torch.cat([torch.cat([tokens, right], dim=2), below], dim=1)


def attend(tensors: Sequence[Tensor], table_h: Tensor, table_w: Tensor, scale: float) -> Tensor:
    """Attention with decomposed relative positions, computed as suits the device; arguments as for :func:`tiled`."""
    if tensors[0].device.type == "cpu" and not is_recorded():
        return tiled(tensors, table_h, table_w, scale)
    inputs = flattened(tensors, table_h, table_w)
    backward = torch.is_grad_enabled() and any(each.requires_grad for each in inputs)
    form = fused if not is_recorded() and can_fuse(inputs, backward) else widened
    return form(*inputs, scale).reshape(-1, *tensors[0].shape[-3:])


def widened(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """Plain attention of longer vectors: q' = [q / √d, rel_h, rel_w] and k' = [k, one-hot row, one-hot column].

    Any fused kernel for attention can be used, backwards too; arguments as for ``attention_tiles.plain``.
    """
    rows, columns = rel_h.shape[-1], rel_w.shape[-1]
    place = torch.arange(key.shape[1], device=key.device)
    where = torch.cat([F.one_hot(place // columns, rows), F.one_hot(place % columns, columns)], dim=1)
    spare = -(key.shape[-1] + rows + columns) % _ALIGNMENT
    long_query = torch.cat([query * scale, rel_h, rel_w], dim=-1)
    long_key = torch.cat([key, where.to(key.dtype).expand(key.shape[0], -1, -1)], dim=-1)
    queries, keys = (F.pad(each, (0, spare))[:, None] for each in (long_query, long_key))
    return F.scaled_dot_product_attention(queries, keys, value[:, None], scale=1.0)[:, 0]


def _strips(length: int, window: int) -> list[tuple[int, int]]:
    """How long the whole windows along one side are together and how many, then the same for what is left over."""
    whole, rest = divmod(length, window)
    return [*([(whole * window, whole)] if whole else []), *([(rest, 1)] if rest else [])]


def _divided(tokens: Tensor, strips: list[tuple[int, int]], dim: int) -> Sequence[Tensor]:
    """Not by slices, of which each would have a gradient as large as all tokens."""
    return tokens.split([length for length, _ in strips], dim)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _relative(table: Tensor, size: int) -> Tensor:
    """(size, size, d): the entry of a table (2 size - 1, d) for each place of a query and of a key."""
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + size - 1]
