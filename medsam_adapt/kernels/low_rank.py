"""A frozen layer with low-rank increments of its weight.

On the processor it is computed as one product with the weight that they make, on a graphics card as the products that
they are: there numbers are of half the width, and a small increment would be lost in a sum with the weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapt.core.precision import is_recorded
from medsam_adapt.kernels.linear_onednn import product, suits, turned

Increment = tuple[Tensor, Tensor]  # D (r, in) and U (out, r) of x -> U D x


def query_value_product(tokens: Tensor, qkv: nn.Linear, query: Increment, value: Increment) -> Tensor:
    """[q | k | v] of a fused layer with q += U_q D_q x and v += U_v D_v x.

    What this gives is what the sums give but for rounding. On the processor the increments are added to the weight, a
    matrix that is small beside the tokens of an image; on a GPU they are added to the result where it lies.

    Args:
        tokens: x, (..., C).
        qkv: C -> 3 C.
        query: D_q (r, C) and U_q (C, r).
        value: D_v and U_v, likewise.

    Returns:
        (..., 3 C).
    """
    trained = any(each.requires_grad for each in qkv.parameters())
    if not (trained and torch.is_grad_enabled()):
        if suits(tokens, qkv.weight):
            return _QueryValueProduct.apply(tokens, qkv.weight, qkv.bias, *query, *value)
        if tokens.is_cuda and not is_recorded():
            return _QueryValueSum.apply(tokens, qkv.weight, qkv.bias, *query, *value)
    return _added(tokens, qkv(tokens), query, value)


@torch.no_grad()
def with_increments(weight: Tensor, query: Increment, value: Increment) -> Tensor:
    """A copy of the fused weight (3 C, C) with U D added to its q and its v rows."""
    merged, channels = weight.clone(), weight.shape[1]
    for rows, (down, up) in ((merged[:channels], query), (merged[2 * channels :], value)):
        rows.addmm_(up, down)
    return merged


def _added(tokens: Tensor, product: Tensor, query: Increment, value: Increment) -> Tensor:
    q, k, v = product.chunk(3, dim=-1)
    steps = (F.linear(F.linear(tokens, down), up) for down, up in (query, value))
    return torch.cat([q + next(steps), k, v + next(steps)], dim=-1)


class _QueryValueProduct(torch.autograd.Function):
    """:func:`query_value_product` of a frozen layer, with gradients for x and the increments."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None, *increments: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, *increments)
        ctx.weight, ctx.bias = weight, bias
        down_q, up_q, down_v, up_v = increments
        return product(tokens, with_increments(weight, (down_q, up_q), (down_v, up_v)), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        tokens, *increments = ctx.saved_tensors
        query, value = (increments[0], increments[1]), (increments[2], increments[3])
        if torch.is_grad_enabled():
            return _derivable(tokens, ctx.weight, ctx.bias, increments, grad)
        to_tokens = None
        if ctx.needs_input_grad[0]:
            to_tokens = product(grad, turned(with_increments(ctx.weight, query, value)), None)
        return to_tokens, None, None, *_slopes(tokens.flatten(0, -2), grad.flatten(0, -2), query, value)


class _QueryValueSum(torch.autograd.Function):
    """:func:`query_value_product` of a frozen layer, with few steps and without copies, for a GPU."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None, *increments: Tensor) -> Tensor:
        kind = tokens.device.type
        ctx.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tokens.dtype
        with torch.autocast(kind, enabled=False):
            flat = tokens.flatten(0, -2).to(ctx.dtype)
            down, up = _side_by_side(increments, ctx.dtype)
            result = F.linear(flat, weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype))
            narrow = F.linear(flat, down)
            result.addmm_(narrow, up.T)
        ctx.save_for_backward(tokens, narrow, *increments)
        ctx.weight, ctx.bias = weight, bias
        return result.unflatten(0, tokens.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        tokens, narrow, *increments = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _derivable(tokens, ctx.weight, ctx.bias, increments, grad)
        channels, rank = ctx.weight.shape[1], len(increments[0])
        down, up = _side_by_side(increments, ctx.dtype)
        flat, along = tokens.flatten(0, -2).to(ctx.dtype), grad.flatten(0, -2).to(ctx.dtype)
        back, to_tokens = along @ up, None
        if ctx.needs_input_grad[0]:
            to_tokens = (along @ ctx.weight.to(ctx.dtype)).addmm_(back, down).view_as(tokens).to(tokens.dtype)
        to_down, to_up = back.T @ flat, along.T @ narrow
        slopes = to_down[:rank], to_up[:channels, :rank], to_down[rank:], to_up[2 * channels :, rank:]
        found = (slope.to(each.dtype) for slope, each in zip(slopes, increments, strict=True))
        return to_tokens, None, None, *found


def _side_by_side(increments: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """D of q and v, (2 r, C), and a U (3 C, 2 r) that brings both to their places."""
    down_q, up_q, down_v, up_v = increments
    channels, rank = up_q.shape
    up = up_q.new_zeros(3 * channels, 2 * rank, dtype=dtype)
    up[:channels, :rank], up[2 * channels :, rank:] = up_q, up_v
    return torch.cat([down_q, down_v]).to(dtype), up


def _derivable(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, increments: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of which a second derivative is wanted: autograd follows the sums."""
    inputs = (tokens, *increments)
    query, value = (increments[0], increments[1]), (increments[2], increments[3])
    result = _added(tokens, F.linear(tokens, weight, bias), query, value)
    wanted = [each for each in inputs if each.requires_grad]
    found = iter(torch.autograd.grad(result, wanted, grad.to(result.dtype), create_graph=True))
    to_tokens, *slopes = (next(found) if each.requires_grad else None for each in inputs)
    return to_tokens, None, None, *slopes


def _slopes(tokens: Tensor, grad: Tensor, query: Increment, value: Increment) -> list[Tensor]:
    """Of D_q, U_q, D_v and U_v; ``tokens`` (M, C) and ``grad`` (M, 3 C).

    Each product has the long side M where PyTorch's library is fast with it: the other way round takes up to 8 times
    as long.
    """
    channels, rank = tokens.shape[1], len(query[0])
    sides = grad[:, :channels].T, grad[:, 2 * channels :].T
    narrow = torch.cat([query[0], value[0]]) @ tokens.T  # D x of both
    back = torch.cat([up.T @ side for side, (_, up) in zip(sides, (query, value), strict=True)])
    to_down = back @ tokens
    to_query, to_value = ((part @ side.T).T for side, part in zip(sides, narrow.split(rank), strict=True))
    return [to_down[:rank], to_query, to_down[rank:], to_value]
