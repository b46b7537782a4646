"""Frozen feed-forward layers that keep how steep their GELU was, in 16 bits, where all else is computed again.

The hidden features of a stage that is computed again for its gradient are needed for nothing but the derivative of the
GELU. It is kept in half of their memory, and neither layer is multiplied again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapt.core.precision import computed_once, is_recorded, keeps_gelu_gradients

_WORTHWHILE = 2**17  # values of a weight; in a small network, as vit_nano is, there is nothing to gain
_STEPS = 52_000.0  # of a GELU's gradient, to 1; it is between -0.129 and 1.129, and 0.5 is the zero of what is kept


class _Layers(NamedTuple):
    """What is frozen: weights (H, C) and (C, H), biases (H,) and (C,) or None."""

    inner: Tensor
    inner_bias: Tensor | None
    outer: Tensor
    outer_bias: Tensor | None


def can_keep_gelu_gradients(tokens: Tensor, first: nn.Module, second: nn.Module, act: nn.Module) -> bool:
    """Whether :func:`feed_forward` can take the place of these layers, and is worth it: for them both to be kept."""
    layers = first, second
    return (
        keeps_gelu_gradients()
        and tokens.requires_grad
        and type(act) is nn.GELU
        and act.approximate == "none"
        and not is_recorded()
        and tokens.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and all(type(layer) is nn.Linear for layer in layers)
        and {tokens.dtype, *(each.dtype for layer in layers for each in layer.parameters())} == {torch.float32}
        and max(each.numel() for each in first.parameters()) >= _WORTHWHILE
        and all(not each.requires_grad for layer in layers for each in layer.parameters())
    )


def feed_forward(tokens: Tensor, first: nn.Linear, second: nn.Linear, size: int, once: bool) -> Tensor:
    """W₂ GELU(W₁ x + b₁) + b₂ with a gradient for x alone, from GELU gradients that are at most 1e-5 off.

    A gradient that is to be derived itself is exact: the hidden features are computed again for it.

    Args:
        tokens: x, (..., C).
        first: C -> H, frozen.
        second: H -> C, frozen.
        size: how many tokens are computed at a time.
        once: whether the result is kept for the second pass through the stage, because a gradient needs it.

    Returns:
        (..., C).
    """
    noted: Tensor = _Noted.apply(tokens)
    layers = _Layers(first.weight, first.bias, second.weight, second.bias)
    with torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):  # else a checkpoint would let them go
        result: Tensor = _FeedForward.apply(noted, noted.grad_fn, layers, size, once)
    return result


def _as_it_is(saved: Tensor) -> Tensor:
    return saved


class _Noted(torch.autograd.Function):
    """x itself, which :class:`_FeedForward` can ask for.

    It must not save x itself: a checkpoint, which computes up to the last tensor that it was given, would multiply both
    layers again. This comes before them.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _FeedForward(torch.autograd.Function):
    """:func:`feed_forward` from what :class:`_Noted` gave, and its node."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, noted: Any, layers: _Layers, size: int, once: bool) -> Tensor:
        ctx.noted, ctx.layers, ctx.size = noted, layers, size
        flat = tokens.flatten(0, -2)

        def compute() -> Tensor:
            gelu_gradients = flat.new_empty(len(flat), len(layers.inner), dtype=torch.int16)
            ctx.save_for_backward(gelu_gradients)
            return _result(flat, layers, size, gelu_gradients).view_as(tokens)

        return computed_once(compute) if once else compute()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if torch.is_grad_enabled():  # a second derivative is wanted, which they do not give
            (tokens,) = ctx.noted.saved_tensors
            inner, inner_bias, outer, outer_bias = ctx.layers
            result = F.linear(F.gelu(F.linear(tokens, inner, inner_bias)), outer, outer_bias)
            return *torch.autograd.grad(result, [tokens], grad, create_graph=True), *[None] * 4
        (gelu_gradients,) = ctx.saved_tensors
        return _gradient(grad.flatten(0, -2), ctx.layers, ctx.size, gelu_gradients).view_as(grad), *[None] * 4


def _result(tokens: Tensor, layers: _Layers, size: int, gelu_gradients: Tensor) -> Tensor:
    """(M, C) of tokens (M, C); the GELU gradients (M, H) are written down."""
    result = torch.empty_like(tokens)
    for part in _parts(len(tokens), size):
        hidden = F.linear(tokens[part], layers.inner, layers.inner_bias)
        _write_gelu_gradients(hidden, gelu_gradients[part])
        result[part] = F.linear(F.gelu(hidden), layers.outer, layers.outer_bias)
    return result


def _gradient(grad: Tensor, layers: _Layers, size: int, gelu_gradients: Tensor) -> Tensor:
    """(M, C) of the tokens, from that of the result, (M, C), and the GELU gradients (M, H)."""
    result = torch.empty_like(grad)
    for part in _parts(len(grad), size):
        hidden = gelu_gradients[part].float().add_(_STEPS / 2).mul_(grad[part] @ layers.outer)
        torch.div(hidden @ layers.inner, _STEPS, out=result[part])
    return result


def _write_gelu_gradients(hidden: Tensor, gelu_gradients: Tensor) -> None:
    """The derivative of the GELU at the hidden features, as whole steps from 0.5."""
    steps = torch.full((), _STEPS).expand_as(hidden)
    gelu_gradients.copy_(torch.ops.aten.gelu_backward(steps, hidden).sub_(_STEPS / 2).round_())


def _parts(count: int, size: int) -> Iterator[slice]:
    for first in range(0, count, size):
        yield slice(first, first + size)
