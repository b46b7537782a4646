"""The layer normalisation of the encoder's blocks, which under autocast on a graphics card gives what comes next."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapt.networks.running import is_recorded
from medsam_adapt.networks.trusted import TOLERANCE, agrees, runs_kernels, worst_difference

_TOKENS = 4  # of a program
_EPSILON = 1e-6  # in the trial, as in SAM's encoder


class TokenNorm(nn.LayerNorm):
    """Layer normalisation of (..., C) over C.

    Under autocast PyTorch's own gives float32, which the linear layer behind it makes narrower; ours gives the
    narrow numbers at once, the same ones, where its weights are not trained.

    Args:
        plain: the layer that is replaced; its weight and bias are taken over.
    """

    def __init__(self, plain: nn.LayerNorm) -> None:
        super().__init__(plain.normalized_shape, plain.eps, device="meta")
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, tokens: Tensor) -> Tensor:
        device = tokens.device
        if device.type != "cuda" or is_recorded() or not torch.is_autocast_enabled("cuda"):
            return super().forward(tokens)
        dtype = torch.get_autocast_dtype("cuda")
        trained = torch.is_grad_enabled() and (self.weight.requires_grad or self.bias.requires_grad)
        if trained or tokens.dtype != torch.float32 or dtype not in TOLERANCE or not runs_kernels(device):
            return super().forward(tokens)
        if not _is_right(device, dtype, tokens.shape[-1]):
            return super().forward(tokens)
        return normalised(tokens, self.weight, self.bias, self.eps, dtype)


def normalised(tokens: Tensor, weight: Tensor, bias: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """Layer normalisation of (..., C) as ``dtype``, by norm_kernels.py, with a gradient for the tokens alone."""
    result: Tensor = _Normalised.apply(tokens.contiguous(), weight, bias, epsilon, dtype)
    return result


@cache
def _is_right(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    return agrees("the normalisation's kernel", lambda: trial(device, dtype, channels), TOLERANCE[dtype])


def trial(device: torch.device, dtype: torch.dtype, channels: int) -> float:
    """The largest difference between :func:`normalised` and PyTorch's own in float64, in the output and the gradient.

    Relative to the largest value of each; not a number where a result is none.
    """
    made = torch.Generator().manual_seed(0)
    tokens, along = (torch.randn(9, channels, generator=made).to(device) for _ in range(2))
    weight, bias = (torch.randn(channels, generator=made).to(device) for _ in range(2))

    def results(norm: Callable[[Tensor, Tensor, Tensor], Tensor], *given: Tensor) -> list[Tensor]:
        shown = (given[0] + 1).requires_grad_()
        output = norm(shown, given[1], given[2])
        return [output.detach(), *torch.autograd.grad(output, [shown], along.to(dtype).to(output.dtype))]

    def ours(shown: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalised(shown, weight, bias, _EPSILON, dtype)

    def right(shown: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(shown, (channels,), weight, bias, _EPSILON)

    given = tokens, weight, bias
    wide = [each.double() for each in given]
    return worst_difference(device, lambda: results(ours, *given), lambda: results(right, *wide))


class _Normalised(torch.autograd.Function):
    """:func:`normalised` with a gradient."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        output = torch.empty_like(tokens, dtype=dtype)
        _launch("normalise", tokens, (weight, bias, output), epsilon)
        ctx.save_for_backward(tokens, weight)
        ctx.epsilon = epsilon
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        tokens, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: autograd follows PyTorch's own
            result = F.layer_norm(tokens, (tokens.shape[-1],), weight, None, ctx.epsilon)
            return *torch.autograd.grad(result, [tokens], grad.to(result.dtype), create_graph=True), *[None] * 4
        to_tokens = torch.empty_like(tokens)
        _launch("token_gradients", tokens, (weight, grad.contiguous(), to_tokens), ctx.epsilon)
        return to_tokens, *[None] * 4


def _launch(kernel: str, tokens: Tensor, others: tuple[Tensor, ...], epsilon: float) -> None:
    import triton

    from medsam_adapt.networks import norm_kernels

    channels = tokens.shape[-1]
    count = tokens.numel() // channels
    with torch.cuda.device_of(tokens):
        run = getattr(norm_kernels, kernel)[(-(-count // _TOKENS),)]
        run(tokens, *others, epsilon, count, channels, _TOKENS, triton.next_power_of_2(channels))
