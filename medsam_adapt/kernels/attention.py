"""SAM's image-encoder attention, exact, without the matrix of position biases and without computing window padding.

The score of a query q at (i, j) with a key k at (y, x) is q · k / √d + q · R_h[i - y] + q · R_w[j - x]. The last two
terms have few values, rel_h (query, row of the key) and rel_w (query, column of the key), which are put together where
the scores are made: on the CPU in tiles that fit into its caches (attention_tiles.py), on a GPU in a fused kernel,
windows and their padding included (attention_fused.py), and by whatever kernel for plain attention there is, of longer
vectors, everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from medsam_adapt.core.precision import is_recorded
from medsam_adapt.kernels import onednn
from medsam_adapt.kernels.attention_fused import can_fuse, fused
from medsam_adapt.kernels.attention_tiles import flattened, tiled
from medsam_adapt.kernels.attention_windows import by_windows, is_padded

_ALIGNMENT = 8  # fused kernels want vectors of a multiple of this


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
        self.qkv, self.proj = plain.qkv, plain.proj

    def forward(self, tokens: Tensor) -> Tensor:
        size = int(tokens.shape[1]), int(tokens.shape[2])  # fixed in a recording
        project = onednn.by_layer if onednn.needs_no_gradient(tokens, self) else _plainly
        qkv = project(tokens, self.qkv)
        fill = self._of_padding(tokens).to(qkv.dtype) if is_padded(size, self.window) else None
        given = qkv, fill, self.rel_pos_h, self.rel_pos_w, self.num_heads, self.window
        if not is_recorded() and can_fuse(*given):
            return project(fused(*given, self.scale), self.proj)
        return project(by_windows(*given, self.scale, attend), self.proj)

    def _of_padding(self, tokens: Tensor) -> Tensor:
        """(3 C,), what ``qkv`` makes of the zeros that fill windows up."""
        return self.qkv(tokens.new_zeros(1, tokens.shape[3]))[0]


def _plainly(tokens: Tensor, layer: nn.Module) -> Tensor:
    result: Tensor = layer(tokens)
    return result


def attend(tensors: Sequence[Tensor], table_h: Tensor, table_w: Tensor, scale: float) -> Tensor:
    """Attention with decomposed relative positions, computed as suits the device; arguments as for :func:`tiled`."""
    if tensors[0].device.type == "cpu" and not is_recorded():
        return tiled(tensors, table_h, table_w, scale)
    return widened(*flattened(tensors, table_h, table_w), scale).reshape(-1, *tensors[0].shape[-3:])


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
