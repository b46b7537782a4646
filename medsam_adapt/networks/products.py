"""Products of matrices on the processor by oneDNN, which PyTorch has at hand and its own layers use in bf16 alone.

In float32 they leave these products to another library, slower on some processors, and go through memory once more
for a GELU. The operator has no public name; PyTorch's compiler calls it in what it compiles.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WORTHWHILE = 2**17  # values of the right matrix; below, there is nothing to gain
_ARGUMENTS = ["X", "W", "B", "attr", "scalars", "algorithm"]


class TokenLinear(nn.Linear):
    """A linear layer (..., in) -> (..., out) whose products :func:`linear` computes.

    Args:
        plain: the layer that is replaced; its weight and bias are taken over.
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, tokens: Tensor, gelu: bool = False) -> Tensor:
        return linear(tokens, self.weight, self.bias, gelu)


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """x Wᵀ + b, and GELU of it if wanted: :func:`torch.nn.functional.linear` but for rounding.

    Args:
        tokens: (..., in).
        weight: (out, in).
        bias: (out,).
        gelu: whether GELU, the exact one, follows.

    Returns:
        (..., out).
    """
    trained = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    if trained or not _is_faster(tokens, weight):
        plain = F.linear(tokens, weight, bias)
        return F.gelu(plain) if gelu else plain
    if torch.is_grad_enabled() and tokens.requires_grad:
        product: Tensor = _Frozen.apply(tokens, weight, bias)
        return F.gelu(product) if gelu else product
    return _product(tokens, weight, bias, gelu)


class _Frozen(torch.autograd.Function):
    """x Wᵀ + b with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(tokens, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted
            return grad @ weight, None, None
        return _product(grad, weight.T, None), None, None


def _product(tokens: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    then, form = ("gelu", "none") if gelu else ("none", "")  # the form of a GELU that is not approximate
    return torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, then, [], form)


def _is_faster(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN can multiply these, and has something to gain."""
    return (
        not (torch.jit.is_tracing() or torch.compiler.is_compiling())
        and left.device.type == "cpu"
        and left.dtype == right.dtype == torch.float32
        and right.numel() >= _WORTHWHILE
        and _HAS_OPERATOR
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


def _has_operator() -> bool:
    """Whether this PyTorch has the operator with the arguments that are meant here, for a processor that gains."""
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if found is None or not torch.backends.mkldnn.is_available():
        return False
    named = [argument.name for argument in found.default._schema.arguments]
    return named == _ARGUMENTS and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


_HAS_OPERATOR = _has_operator()
