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

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # query, key, value, rel_h and rel_w, as `tiled` takes them
Tile = tuple[slice, Tensor, Tensor]


def tiled(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """Attention in tiles of queries, whose scores are made again for the gradient unless they are few.

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
    few = query.shape[0] * query.shape[1] * key.shape[1] * query.element_size() <= _KEPT_BYTES
    keep = few and torch.is_grad_enabled() and not is_computed_again()
    return _Tiled.apply(query, key, value, rel_h, rel_w, scale, keep)


class _Tiled(torch.autograd.Function):
    """:func:`tiled` with a gradient; what it computes in is the type of its arguments, autocast or not."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float, keep: bool
    ) -> Tensor:
        kept = query.new_empty(*query.shape[:2], key.shape[1]) if keep else None
        with torch.autocast("cpu", enabled=False):
            output = computed_once(lambda: _mix(query, key, value, rel_h, rel_w, scale, kept))
        ctx.save_for_backward(query, key, value, rel_h, rel_w, output, kept)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value, rel_h, rel_w, output, kept = ctx.saved_tensors
        inputs = (query, key, value, rel_h, rel_w)
        if torch.is_grad_enabled():  # a second derivative is wanted: autograd follows the plain form
            return *plain_gradients(inputs, ctx.needs_input_grad, grad, ctx.scale), None, None
        with torch.autocast("cpu", enabled=False):
            return *_gradients(*inputs, output, grad.to(output.dtype), ctx.scale, kept), None, None


def _mix(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    scale: float,
    kept: Tensor | None,
) -> Tensor:
    """:func:`tiled` without a gradient; the probabilities (N, Q, H W) are left in ``kept``, if that is given."""
    output = query.new_empty(query.shape)
    spaces = _spaces(query, key, kept)
    for group in _groups(query, key):
        queries, keys, values = query[group] * scale, key[group].contiguous(), value[group].contiguous()
        biases, own = (rel_h[group], rel_w[group]), None if kept is None else kept[group]
        for part, probabilities, _ in _tiles(queries, keys, *biases, spaces, own):
            output[group][:, part] = probabilities @ values
    return output


def plain(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """Attention with all biases and scores in memory; arguments as for :func:`tiled`."""
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(2)
    return ((query * scale) @ key.transpose(1, 2) + bias).softmax(dim=-1) @ value


def plain_gradients(inputs: Inputs, wanted: Sequence[bool], grad: Tensor, scale: float) -> list[Tensor | None]:
    """Gradients of the five ``inputs`` of :func:`plain` that are ``wanted``, which can be derived again."""
    asked = [tensor for tensor, needed in zip(inputs, wanted, strict=False) if needed]
    found = iter(torch.autograd.grad(plain(*inputs, scale), asked, grad, create_graph=True))
    return [next(found) if needed else None for _, needed in zip(inputs, wanted, strict=False)]


def _gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    output: Tensor,
    grad: Tensor,
    scale: float,
    kept: Tensor | None,
) -> list[Tensor]:
    """Gradients of the tensors that :func:`_mix` took, from its output and the gradient of that.

    Those of keys and values, sums over tiles, are summed in float32 at least, and as (N, d, H W): a product whose long
    side is the tile's own is faster.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    to_query, to_h, to_w = (each.new_empty(each.shape) for each in (query, rel_h, rel_w))
    to_key, to_value = (each.new_zeros(each.transpose(1, 2).shape, dtype=exact) for each in (key, value))
    along = -(grad * output).sum(dim=-1, keepdim=True)
    spaces = _spaces(query, key, kept)
    for group in _groups(query, key):
        queries, keys, grads = query[group] * scale, key[group].contiguous(), grad[group].contiguous()
        values = value[group].contiguous().transpose(1, 2)
        own = None if kept is None else kept[group]
        tiles = _tiles(queries, keys, rel_h[group], rel_w[group], spaces, own, made=own is not None)
        for part, probabilities, space in tiles:
            _add_product(to_value[group], grads[:, part].transpose(1, 2), probabilities)
            to_scores = space.copy_(along[group][:, part].expand_as(space)).baddbmm_(grads[:, part], values)
            to_scores *= probabilities
            to_query[group][:, part] = to_scores @ keys
            _add_product(to_key[group], queries[:, part].transpose(1, 2), to_scores)
            by_place = to_scores.unflatten(-1, (rel_h.shape[-1], rel_w.shape[-1]))
            torch.sum(by_place, dim=-1, out=to_h[group][:, part])
            torch.sum(by_place, dim=-2, out=to_w[group][:, part])
    sums = (total.transpose(1, 2).to(query.dtype) for total in (to_key, to_value))
    return [to_query.mul_(scale), *sums, to_h, to_w]


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
    row = key.shape[1] * query.element_size()  # bytes of the scores of a query
    queries = max(1, min(_TILE_BYTES * torch.get_num_threads(), _MOST_BYTES) // row)
    together = min(query.shape[0], max(queries // query.shape[1], min(2, torch.get_num_threads())))
    return together, min(query.shape[1], max(1, queries // together))


def _spaces(query: Tensor, key: Tensor, kept: Tensor | None) -> list[Tensor]:
    """Room for the scores of a tile, and for its probabilities unless they are kept; all tiles use it in turn."""
    size = math.prod(_fitting(query, key)) * key.shape[1]
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
