"""How the fused queries, keys and values of a grid of tokens are divided into windows, and the results put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medsam_adapt.kernels.attention_tiles import apart

Part = tuple[Sequence[Tensor], Tensor, Tensor]  # as `attention_tiles.tiled` takes them, but for the scale
Attend = Callable[[Sequence[Tensor], Tensor, Tensor, float], Tensor]


def by_windows(
    qkv: Tensor,
    fill: Tensor | None,
    table_h: Tensor,
    table_w: Tensor,
    heads: int,
    window: int,
    scale: float,
    attend: Attend,
) -> Tensor:
    """Attention in each window of a grid, or over the whole of it.

    Args:
        qkv: queries, keys and values (B, H, W, 3 C) of the grid's tokens.
        fill: (3 C,), those of a token that windows at the right and at the bottom are filled up with; None where none
            is.
        table_h: relative positions (2 window - 1, d) of rows, or (2 H - 1, d) without windows.
        table_w: the same of columns.
        heads: number of heads, C = heads d.
        window: side of a window in tokens, 0 for attention over the whole grid.
        scale: of the products of queries and keys.
        attend: mixes the tokens of windows of one size, with arguments as for ``attention_tiles.tiled``.

    Returns:
        (B, H, W, C).
    """
    height, width = int(qkv.shape[1]), int(qkv.shape[2])
    side = window or max(height, width)
    rows, columns = _strips(height, side), _strips(width, side)
    mixed = []
    for strip, (_, down) in zip(_divided(qkv, rows, dim=1), rows, strict=True):
        row = []
        for part, (_, across) in zip(_divided(strip, columns, dim=2), columns, strict=True):
            tensors, of_rows, of_columns = _part(part, down, across, fill, (table_h, table_w), heads, window)
            row.append(_in_place(attend(tensors, of_rows, of_columns, scale), down, across, heads))
        mixed.append(joined(row, dim=2))
    return joined(mixed, dim=1)


def joined(parts: list[Tensor], dim: int) -> Tensor:
    """All parts in one tensor; one alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def is_padded(grid: tuple[int, int], window: int) -> bool:
    """Whether windows reach beyond a grid of rows and columns."""
    return window > 0 and any(side % window > 0 for side in grid)


def _part(
    qkv: Tensor,
    down: int,
    across: int,
    fill: Tensor | None,
    tables: tuple[Tensor, Tensor],
    heads: int,
    window: int,
) -> Part:
    """(B, h, w, 3 C) to queries, keys, values and tables of ``down`` times ``across`` windows of one size."""
    batch, height, width = qkv.shape[:3]
    rows, columns = int(height) // down, int(width) // across
    parts = qkv.reshape(batch, down, rows, across, columns, 3, heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
    flat = parts.reshape(3, -1, rows * columns, parts.shape[-1])  # copied, unless it is all heads of one image
    tensors: Sequence[Tensor] = (flat.reshape(3, -1, rows, columns, parts.shape[-1]),)
    size = rows, columns
    if window and size != (window, window):
        assert fill is not None, "made where windows are padded"
        query, key, value = apart(tensors)
        _, fill_key, fill_value = fill.reshape(3, heads, 1, 1, -1)
        tensors = query, _filled(key, fill_key, window), _filled(value, fill_value, window)
        size = window, window
    table_h = _relative(tables[0], size[0])[:rows].to(qkv.dtype)
    return tensors, table_h, _relative(tables[1], size[1])[:columns].to(qkv.dtype)


def _in_place(mixed: Tensor, down: int, across: int, heads: int) -> Tensor:
    """(B, h, w, C) of the results (B down across heads, rows, columns, d) of windows of one size."""
    rows, columns = mixed.shape[1:3]
    parts = mixed.reshape(-1, down, across, heads, rows, columns, mixed.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6)
    return parts.reshape(parts.shape[0], down * rows, across * columns, -1)


def _filled(tokens: Tensor, fill: Tensor, window: int) -> Tensor:
    """(N heads, rows, columns, d) made as large as a window, with ``fill`` (heads, 1, 1, d) below and right."""
    rows, columns = tokens.shape[1:3]
    fill = fill.expand(tokens.shape[0] // fill.shape[0], -1, -1, -1, -1).flatten(0, 1)
    right = fill.expand(-1, rows, window - columns, -1)
    below = fill.expand(-1, window - rows, window, -1)
    return torch.cat([torch.cat([tokens, right], dim=2), below], dim=1)


def _strips(length: int, window: int) -> list[tuple[int, int]]:
    """How long the whole windows along one side are together and how many, then the same for what is left over."""
    whole, rest = divmod(length, window)
    return [*([(whole * window, whole)] if whole else []), *([(rest, 1)] if rest else [])]


def _divided(tokens: Tensor, strips: list[tuple[int, int]], dim: int) -> Sequence[Tensor]:
    """Not by slices, of which each would have a gradient as large as all tokens."""
    return tokens.split([length for length, _ in strips], dim)


def _relative(table: Tensor, size: int) -> Tensor:
    """(size, size, d): the entry of a table (2 size - 1, d) for each place of a query and of a key."""
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + size - 1]
