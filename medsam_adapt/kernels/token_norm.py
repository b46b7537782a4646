"""The layer normalisation of the encoder's blocks, with the sums around it in one pass on a graphics card."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapt.core.precision import is_recorded
from medsam_adapt.kernels.self_test import TOLERANCE, agrees, runs_kernels, worst_difference

_TOKENS = 4  # of a program
_EPSILON = 1e-6  # in the trial, as in SAM's encoder


class TokenNorm(nn.LayerNorm):
    """Layer normalisation of (..., C) over C, whose weights are those of the layer that it replaces.

    Under autocast PyTorch's own gives float32, which the linear layer behind it makes narrower; ours gives the
    narrow numbers at once, the same ones, where its weights are not trained.

    Args:
        plain: the layer that is replaced; its weight and bias are taken over.
    """

    def __init__(self, plain: nn.LayerNorm) -> None:
        super().__init__(plain.normalized_shape, plain.eps, device="meta")
        self.weight, self.bias = plain.weight, plain.bias

    def after(self, tokens: Tensor, branch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The sum of tokens and a branch beside them, or the tokens alone; and the normalised sum."""
        dtype = _suits(tokens, self.weight, self.bias)
        if dtype is not None:
            return normalised(tokens, branch, self.weight, self.bias, self.eps, dtype)
        total = tokens if branch is None else tokens + branch
        return total, self(total)


def normalised(
    tokens: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """:meth:`TokenNorm.after` by norm_kernels.py, the second result as ``dtype``; weights get no gradient."""
    total, output = _Normalised.apply(
        tokens.contiguous(), None if branch is None else branch.contiguous(), weight, bias, epsilon, dtype
    )
    return total, output


def _suits(tokens: Tensor, weight: Tensor, bias: Tensor) -> torch.dtype | None:
    """What :func:`normalised` is to give; None where it does not suit, or not give on this device what it should."""
    device = tokens.device
    if device.type != "cuda" or is_recorded() or not torch.is_autocast_enabled("cuda"):
        return None
    dtype = torch.get_autocast_dtype("cuda")
    trained = torch.is_grad_enabled() and (weight.requires_grad or bias.requires_grad)
    if trained or tokens.dtype != torch.float32 or dtype not in TOLERANCE or not runs_kernels(device):
        return None
    return dtype if _is_right(device, dtype, tokens.shape[-1]) else None


@cache
def _is_right(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    return agrees("the normalisation's kernel", lambda: trial(device, dtype, channels), TOLERANCE[dtype])


def trial(device: torch.device, dtype: torch.dtype, channels: int) -> float:
    """The largest difference between :func:`normalised` and PyTorch's own in float64, in results and gradients.

    With a branch and without, relative to the largest value of each; not a number where a result is none.
    """
    made = torch.Generator().manual_seed(0)
    tokens, branch, past, along = (torch.randn(9, channels, generator=made).to(device) for _ in range(4))
    weight, bias = (torch.randn(channels, generator=made).to(device) for _ in range(2))
    branch, along = branch.to(dtype), along.to(dtype)

    def results(norm: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]], wide: bool) -> list[Tensor]:
        shown, beside = ((each.double() if wide else each.clone()).requires_grad_() for each in (tokens + 1, branch))
        total, output = norm(shown, beside)
        alone = norm(shown, None)[1]
        ends = [past.to(total.dtype), along.to(output.dtype), along.to(alone.dtype)]
        slopes = torch.autograd.grad([total, output, alone], [shown, beside], ends)
        return [total.detach(), output.detach(), *slopes]

    def plain(shown: Tensor, beside: Tensor | None) -> tuple[Tensor, Tensor]:
        total = shown if beside is None else shown + beside
        return total, F.layer_norm(total, (channels,), weight.double(), bias.double(), _EPSILON)

    def ours(shown: Tensor, beside: Tensor | None) -> tuple[Tensor, Tensor]:
        return normalised(shown, beside, weight, bias, _EPSILON, dtype)

    return worst_difference(device, lambda: results(ours, wide=False), lambda: results(plain, wide=True))


class _Normalised(torch.autograd.Function):
    """:func:`normalised` with a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        branch: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        epsilon: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        total = tokens.view_as(tokens) if branch is None else torch.empty_like(tokens)
        output = torch.empty_like(tokens, dtype=dtype)
        _launch("normalise", (tokens, branch, weight, bias, total, output), epsilon, {"ADDED": branch is not None})
        ctx.save_for_backward(total, weight)
        ctx.set_materialize_grads(False)
        ctx.epsilon, ctx.of_branch = epsilon, None if branch is None else branch.dtype
        return total, output

    @staticmethod
    def backward(ctx: Any, past: Tensor | None, grad: Tensor | None) -> Any:
        total, weight = ctx.saved_tensors
        of_branch = ctx.of_branch
        if grad is None:
            to_tokens = past
        elif torch.is_grad_enabled():  # a second derivative is wanted: autograd follows PyTorch's own
            result = F.layer_norm(total, (total.shape[-1],), weight, None, ctx.epsilon)
            (to_tokens,) = torch.autograd.grad(result, [total], grad.to(result.dtype), create_graph=True)
            to_tokens = to_tokens if past is None else to_tokens + past
        else:
            to_tokens = torch.empty_like(total)
            to_branch = None if of_branch is None else torch.empty_like(total, dtype=of_branch)
            past = None if past is None else past.contiguous()
            tensors = total, weight, grad.contiguous(), past, to_tokens, to_branch
            _launch("token_gradients", tensors, ctx.epsilon, {"PAST": past is not None, "ADDED": to_branch is not None})
            return to_tokens, to_branch, *[None] * 4
        to_branch = None if of_branch is None or to_tokens is None else to_tokens.to(of_branch)
        return to_tokens, to_branch, *[None] * 4


def _launch(kernel: str, tensors: tuple[Tensor | None, ...], epsilon: float, what: dict[str, bool]) -> None:
    import triton

    from medsam_adapt.kernels import norm_triton as norm_kernels

    tokens = tensors[0]
    assert tokens is not None, "the first of them is always there"
    channels = tokens.shape[-1]
    count = tokens.numel() // channels
    present = [tokens if each is None else each for each in tensors]  # where there is none, none is read
    sides = {"TOKENS": _TOKENS, "CHANNELS": triton.next_power_of_2(channels)}
    with torch.cuda.device_of(tokens):
        getattr(norm_kernels, kernel)[(-(-count // _TOKENS),)](*present, epsilon, count, channels, **what, **sides)
