"""Attention with decomposed relative positions on the processor, in tiles of scores that fit into its caches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from medsam_adapt.networks.running import computed_once, is_computed_again

_TILE_BYTES = 2**21  # of scores at a time, for each thread: half or twice as much is no faster
_MOST_BYTES = 2**24  # of a tile, whatever the threads
_KEPT_BYTES = 2**24  # of probabilities that are kept for the gradient rather than made again

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # of `plain`, but for its scale
Tile = tuple[slice, Tensor, Tensor]


def tiled(tensors: Sequence[Tensor], table_h: Tensor, table_w: Tensor, scale: float) -> Tensor:
    """Attention in tiles of queries, whose scores are made again for the gradient unless they are few.

    Args:
        tensors: query (N, h, w, d), key and value (N, H, W, d); or all three, of one shape, in one (3, N, h, w, d),
            whose gradient then is one tensor as well and lies in memory as it does.
        table_h: (h, H, d), whose product with a query is added to its scores of the keys in each row.
        table_w: (w, W, d), the same for columns.
        scale: of the products of queries and keys.

    Returns:
        (N, h, w, d).
    """
    query, key, _ = apart(tensors)
    few = query[..., 0].numel() * key[0, ..., 0].numel() * query.element_size() <= _KEPT_BYTES
    keep = few and torch.is_grad_enabled() and not is_computed_again()
    return _Tiled.apply(scale, keep, table_h, table_w, *tensors)


def apart(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of what :func:`tiled` takes."""
    query, key, value = tensors[0].unbind() if len(tensors) == 1 else tensors
    return query, key, value


def biases(query: Tensor, table_h: Tensor, table_w: Tensor) -> tuple[Tensor, Tensor]:
    """What is added to scores: rel_h (N, h w, H) for the keys of each row, rel_w (N, h w, W) for those of each column.

    Arguments as for :func:`tiled`.
    """
    rel_h = torch.einsum("nhwd,hkd->nhwk", query, table_h)
    return rel_h.flatten(1, 2), torch.einsum("nhwd,wkd->nhwk", query, table_w).flatten(1, 2)


def flattened(tensors: Sequence[Tensor], table_h: Tensor, table_w: Tensor) -> Inputs:
    """What :func:`plain` takes, from what :func:`tiled` takes."""
    query, key, value = apart(tensors)
    return query.flatten(1, 2), key.flatten(1, 2), value.flatten(1, 2), *biases(query, table_h, table_w)


def plain(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """Attention with all biases and scores in memory.

    Args:
        query: (N, Q, d).
        key: (N, H W, d).
        value: (N, H W, d).
        rel_h: (N, Q, H), added to the scores of the keys in each row.
        rel_w: (N, Q, W), added to the scores of the keys in each column.
        scale: of the products of queries and keys.

    Returns:
        (N, Q, d).
    """
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(2)
    return ((query * scale) @ key.transpose(1, 2) + bias).softmax(dim=-1) @ value


def derivable_gradients(
    result: Tensor, inputs: Sequence[Tensor], wanted: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """Gradients of the ``inputs`` of ``result`` that are ``wanted``, which can be derived again."""
    asked = [tensor for tensor, needed in zip(inputs, wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(result, asked, grad, create_graph=True))
    return [next(found) if needed else None for needed in wanted]


class _Tiled(torch.autograd.Function):
    """:func:`tiled` with a gradient; what it computes in is the type of its arguments, autocast or not."""

    @staticmethod
    def forward(ctx: Any, scale: float, keep: bool, table_h: Tensor, table_w: Tensor, *tensors: Tensor) -> Tensor:
        query, key, value = apart(tensors)
        kept = query.new_empty(len(query), *(side[0, ..., 0].numel() for side in (query, key))) if keep else None
        with torch.autocast("cpu", enabled=False):
            output = computed_once(lambda: _mix(query, key, value, table_h, table_w, scale, kept))
        ctx.save_for_backward(table_h, table_w, output, kept, *tensors)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        table_h, table_w, output, kept, *tensors = ctx.saved_tensors
        tables, wanted = (table_h, table_w), ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # a second derivative is wanted: autograd follows the plain form
            result = plain(*flattened(tensors, *tables), ctx.scale).view_as(grad)
            return None, None, *derivable_gradients(result, [*tables, *tensors], wanted, grad)
        with torch.autocast("cpu", enabled=False):
            return None, None, *_gradients(tensors, tables, output, grad.to(output.dtype), ctx.scale, kept, wanted)


def _mix(
    query: Tensor, key: Tensor, value: Tensor, table_h: Tensor, table_w: Tensor, scale: float, kept: Tensor | None
) -> Tensor:
    """:func:`tiled` without a gradient; the probabilities (N, h w, H W) are left in ``kept``, if that is given."""
    output = torch.empty_like(query)  # heads side by side, where they are in what the queries are a part of
    spaces = _spaces(query, key, kept)
    for group in _groups(query, key):
        keys, values = (each[group].flatten(1, 2).contiguous() for each in (key, value))
        queries, own = query[group].flatten(1, 2) * scale, None if kept is None else kept[group]
        mixed, rel = _rows(output[group]), biases(query[group], table_h, table_w)
        for part, probabilities, _ in _tiles(queries, keys, *rel, spaces, own):
            mixed[:, part] = probabilities @ values
    return output


def _rows(result: Tensor) -> Tensor:
    """(n, h, w, d) as (n, h w, d), to be written to: in the same memory, or not at all."""
    return result.view(-1, result.shape[1] * result.shape[2], result.shape[3])


def _gradients(
    tensors: Sequence[Tensor],
    tables: Sequence[Tensor],
    output: Tensor,
    grad: Tensor,
    scale: float,
    kept: Tensor | None,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of ``tables``, if they are ``wanted``, and of ``tensors``, from the output of :func:`_mix` and its own.

    Those of keys, values and tables, sums over tiles, are summed in float32 at least; of keys and values as
    (n, d, H W), for a product whose long side is the tile's own is faster.
    """
    query, key, value = apart(tensors)
    exact = torch.promote_types(query.dtype, torch.float32)
    slopes = [torch.empty_like(each) for each in tensors]
    to_query, to_key, to_value = apart(slopes)
    to_tables = [
        torch.zeros_like(each, dtype=exact) if asked else None for each, asked in zip(tables, wanted, strict=False)
    ]
    spaces = _spaces(query, key, kept)
    for group in _groups(query, key):
        keys, values, grads = (each[group].flatten(1, 2).contiguous() for each in (key, value, grad))
        queries, rel = query[group].flatten(1, 2) * scale, biases(query[group], *tables)
        along = -(grads * output[group].flatten(1, 2)).sum(dim=-1, keepdim=True)
        to_queries, to_rel = _rows(to_query[group]), [torch.empty_like(each) for each in rel]
        to_keys, to_values = (each.new_zeros(each.transpose(1, 2).shape, dtype=exact) for each in (keys, values))
        own = None if kept is None else kept[group]
        for part, probabilities, space in _tiles(queries, keys, *rel, spaces, own, made=own is not None):
            _add_product(to_values, grads[:, part].transpose(1, 2), probabilities)
            to_scores = space.copy_(along[:, part].expand_as(space))
            to_scores.baddbmm_(grads[:, part], values.transpose(1, 2)).mul_(probabilities)
            to_queries[:, part] = to_scores @ keys
            _add_product(to_keys, queries[:, part].transpose(1, 2), to_scores)
            by_place = to_scores.unflatten(-1, key.shape[1:3])
            for dim, total in zip((-1, -2), to_rel, strict=True):
                torch.sum(by_place, dim=dim, out=total[:, part])
        for total, sums in ((to_key, to_keys), (to_value, to_values)):
            _rows(total[group]).copy_(sums.transpose(1, 2))
        _add_through_biases(to_query[group].mul_(scale), query[group], to_rel, tables, to_tables)
    return [*(None if each is None else each.to(query.dtype) for each in to_tables), *slopes]


def _add_through_biases(
    to_query: Tensor,
    query: Tensor,
    to_rel: Sequence[Tensor],
    tables: Sequence[Tensor],
    to_tables: Sequence[Tensor | None],
) -> None:
    """Add what comes through :func:`biases` to the gradients of a group's queries (n, h, w, d) and of the tables."""
    for side, slope, table, to_table in zip("hw", to_rel, tables, to_tables, strict=True):
        by_place = slope.unflatten(1, query.shape[1:3])
        to_query += torch.einsum(f"nhwk,{side}kd->nhwd", by_place, table)
        if to_table is not None:
            to_table += torch.einsum(f"nhwk,nhwd->{side}kd", by_place, query)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` to ``total`` in place, at its precision."""
    if total.dtype == left.dtype:
        total.baddbmm_(left, right)
    else:
        total += left @ right


def _groups(query: Tensor, key: Tensor) -> Iterator[slice]:
    """Of N, as many at a time as fit into a tile, and two at least where there are two threads: each has one then.

    Their keys and values are copied for all of the group's tiles, which read them again and again: in the product of
    the layer from which they come, their rows lie far apart.
    """
    together, _ = _fitting(query, key)
    for first in range(0, query.shape[0], together):
        yield slice(first, min(first + together, query.shape[0]))


def _fitting(query: Tensor, key: Tensor) -> tuple[int, int]:
    """Of how many of N a tile is, and of how many queries each."""
    count, keys = query[0, ..., 0].numel(), key[0, ..., 0].numel()
    row = keys * query.element_size()  # bytes of the scores of a query
    queries = max(1, min(_TILE_BYTES * torch.get_num_threads(), _MOST_BYTES) // row)
    together = min(query.shape[0], max(queries // count, min(2, torch.get_num_threads())))
    return together, min(count, max(1, queries // together))


def _spaces(query: Tensor, key: Tensor, kept: Tensor | None) -> list[Tensor]:
    """Room for the scores of a tile, and for its probabilities unless they are kept; all tiles use it in turn."""
    size = math.prod(_fitting(query, key)) * key[0, ..., 0].numel()
    return [query.new_empty(size) for _ in range(2 if kept is None else 1)]


def _tiles(
    query: Tensor,
    key: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    spaces: list[Tensor],
    kept: Tensor | None,
    made: bool = False,
) -> Iterator[Tile]:
    """Each tile of a group: which of the queries, their probabilities (n, q, H W) and a free space of that shape.

    Args:
        query: (n, Q, d), scaled.
        key: (n, H W, d).
        rel_h: (n, Q, H).
        rel_w: (n, Q, W).
        spaces: from :func:`_spaces`; the next tile overwrites them.
        kept: (n, Q, H W), of which the probabilities are to be a part rather than in a space.
        made: whether they are there already.
    """
    down = min(query.shape[1], spaces[0].numel() // (query.shape[0] * key.shape[1]))
    for top in range(0, query.shape[1], down):
        part = slice(top, min(top + down, query.shape[1]))
        shape = torch.Size((query.shape[0], part.stop - part.start, key.shape[1]))
        scores, *rest = (space[: shape.numel()].view(shape) for space in spaces)
        probabilities = rest[0] if kept is None else kept[:, part]
        if not made:
            bias = scores.view(*shape[:2], rel_h.shape[-1], rel_w.shape[-1])
            torch.add(rel_h[:, part, :, None], rel_w[:, part, None, :], out=bias)
            torch.baddbmm(scores, query[:, part], key.transpose(1, 2), out=scores)
            torch.softmax(scores, dim=-1, out=probabilities)
        yield part, probabilities, scores
