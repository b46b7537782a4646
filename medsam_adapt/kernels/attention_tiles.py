"""Attention with decomposed relative positions on the processor, in tiles of scores that fit into its caches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medsam_adapt.core.precision import computed_once, is_computed_again

_TILE_BYTES = 2**21  # of a tile's scores and of what is made of them, for each thread
_QUERIES = 256  # of each of N in a tile, where so many bytes would hold fewer: with fewer, products are slower
_MOST_BYTES = 2**25  # of all that, whatever the threads
_KEPT_BYTES = 2**24  # of probabilities that are kept for the gradient rather than made again

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # of `plain`, but for its scale


class _Size(NamedTuple):
    """Of a tile: of how many of N it is at most, and of how many queries of each."""

    together: int
    queries: int


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
    size = _fitting(query, key, tensors=1)
    space = _space(query, key, size)
    for group in _groups(query, size):
        keys, values = (each[group].flatten(1, 2).contiguous() for each in (key, value))
        queries, rel = query[group].flatten(1, 2) * scale, biases(query[group], table_h, table_w)
        mixed, room = _rows(output[group]), space if kept is None else kept[group]
        for part, probabilities in _tiles(queries, keys, *rel, size, room):
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
    to_qkv = [torch.empty_like(each) for each in tensors]
    to_query, to_key, to_value = apart(to_qkv)
    to_tables = [
        torch.zeros_like(each, dtype=exact) if asked else None for each, asked in zip(tables, wanted, strict=False)
    ]
    size = _fitting(query, key, tensors=2)
    space, other = (_space(query, key, size) for _ in range(2))
    for group in _groups(query, size):
        keys, values, grads = (each[group].flatten(1, 2).contiguous() for each in (key, value, grad))
        queries, rel = query[group].flatten(1, 2) * scale, biases(query[group], *tables)
        along = -(grads * output[group].flatten(1, 2)).sum(dim=-1, keepdim=True)
        to_queries, to_rel = _rows(to_query[group]), [torch.empty_like(each) for each in rel]
        to_keys, to_values = (each.new_zeros(each.transpose(1, 2).shape, dtype=exact) for each in (keys, values))
        room = space if kept is None else kept[group]
        for part, probabilities in _tiles(queries, keys, *rel, size, room, made=kept is not None):
            _add_product(to_values, grads[:, part].transpose(1, 2), probabilities)
            to_scores = _shaped(other, probabilities.shape).copy_(along[:, part].expand_as(probabilities))
            to_scores.baddbmm_(grads[:, part], values.transpose(1, 2)).mul_(probabilities)
            to_queries[:, part] = to_scores @ keys
            _add_product(to_keys, queries[:, part].transpose(1, 2), to_scores)
            by_place = to_scores.unflatten(-1, key.shape[1:3])
            for dim, total in zip((-1, -2), to_rel, strict=True):
                torch.sum(by_place, dim=dim, out=total[:, part])
        for total, sums in ((to_key, to_keys), (to_value, to_values)):
            _rows(total[group]).copy_(sums.transpose(1, 2))
        _add_through_biases(to_query[group].mul_(scale), query[group], to_rel, tables, to_tables)
    return [*(None if each is None else each.to(query.dtype) for each in to_tables), *to_qkv]


def _add_through_biases(
    to_query: Tensor,
    query: Tensor,
    to_rel: Sequence[Tensor],
    tables: Sequence[Tensor],
    to_tables: Sequence[Tensor | None],
) -> None:
    """Add what comes through :func:`biases` to the gradients of a group's queries (n, h, w, d) and of the tables."""
    for side, gradient, table, to_table in zip("hw", to_rel, tables, to_tables, strict=True):
        by_place = gradient.unflatten(1, query.shape[1:3])
        to_query += torch.einsum(f"nhwk,{side}kd->nhwd", by_place, table)
        if to_table is not None:
            to_table += torch.einsum(f"nhwk,nhwd->{side}kd", by_place, query)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` to ``total`` in place, at its precision."""
    if total.dtype == left.dtype:
        total.baddbmm_(left, right)
    else:
        total += left @ right


def _groups(query: Tensor, size: _Size) -> Iterator[slice]:
    """Of N, as many at a time as a tile is of.

    Their keys and values are copied for all of the group's tiles, which read them again and again: in the product of
    the layer from which they come, their rows lie far apart.
    """
    for first in range(0, query.shape[0], size.together):
        yield slice(first, min(first + size.together, query.shape[0]))


def _fitting(query: Tensor, key: Tensor, tensors: int) -> _Size:
    """A tile of which so many tensors fit into its bytes; of two of N at least where there are two threads."""
    count, keys = query[0, ..., 0].numel(), key[0, ..., 0].numel()
    row, least = keys * query.element_size() * tensors, min(2, torch.get_num_threads())
    queries = max(1, min(max(_TILE_BYTES * torch.get_num_threads(), row * least * _QUERIES), _MOST_BYTES) // row)
    together = min(query.shape[0], max(queries // count, least))
    return _Size(together, min(count, max(1, queries // together)))


def _space(query: Tensor, key: Tensor, size: _Size) -> Tensor:
    """Room for one of a tile's tensors; all tiles use it in turn."""
    return query.new_empty(math.prod(size) * key[0, ..., 0].numel())


def _shaped(space: Tensor, shape: torch.Size) -> Tensor:
    """The beginning of a space."""
    return space[: shape.numel()].view(shape)


def _tiles(
    query: Tensor, key: Tensor, rel_h: Tensor, rel_w: Tensor, size: _Size, room: Tensor, made: bool = False
) -> Iterator[tuple[slice, Tensor]]:
    """Each tile of a group: which of the queries, and their probabilities (n, q, H W).

    Scores become probabilities where they are: half the memory stays in the caches longer.

    Args:
        query: (n, Q, d), scaled.
        key: (n, H W, d).
        rel_h: (n, Q, H).
        rel_w: (n, Q, W).
        size: of a tile.
        room: for all probabilities (n, Q, H W); or a :func:`_space`, which the next tile overwrites.
        made: whether they are there already.
    """
    for top in range(0, query.shape[1], size.queries):
        part = slice(top, min(top + size.queries, query.shape[1]))
        shape = torch.Size((query.shape[0], part.stop - part.start, key.shape[1]))
        scores = room[:, part] if room.dim() == 3 else _shaped(room, shape)
        if not made:
            bias = scores.view(*shape[:2], rel_h.shape[-1], rel_w.shape[-1])
            torch.add(rel_h[:, part, :, None], rel_w[:, part, None, :], out=bias)
            torch.baddbmm(scores, query[:, part], key.transpose(1, 2), out=scores)
            torch.softmax(scores, dim=-1, out=scores)
        yield part, scores
