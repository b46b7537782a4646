"""The encoder's linear layers on a processor, in float32 and where their weights are not trained.

On x86 PyTorch's own layers use another library than oneDNN by default. On a processor with AVX-512 (AMD Zen 4) that was
slower, and goes through memory once more for a GELU; on one with AVX2 alone (AMD Zen 3) it is faster.
oneDNN's operator has no public name; PyTorch's compiler calls it in what it compiles.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapt.core.precision import computed_once, is_recorded

_WORTHWHILE = 2**17  # values of a weight; below, as in vit_nano, there is nothing to gain
_ARGUMENTS = ["X", "W", "B", "attr", "scalars", "algorithm"]


class TokenLinear(nn.Linear):
    """A linear layer (..., in) -> (..., out) whose products :func:`linear` computes.

    Args:
        plain: the layer that is replaced; its weight and bias are taken over.

    Attributes:
        once: as for :func:`linear`.
    """

    once = False

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias

    @property
    def of_zeros(self) -> Tensor | None:
        """(out,), what it makes of a token of zeros; None for zeros."""
        return self.bias

    def forward(self, tokens: Tensor, gelu: bool = False) -> Tensor:
        return linear(tokens, self.weight, self.bias, gelu, self.once)


def linear(
    tokens: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False, once: bool = False
) -> Tensor:
    """x Wᵀ + b, and GELU of it if wanted: what :func:`torch.nn.functional.linear` gives but for rounding.

    Args:
        tokens: (..., in).
        weight: (out, in).
        bias: (out,).
        gelu: whether GELU, the exact one, follows.
        once: where a stage is computed again for its gradient, whether the product is kept instead: worth its memory
            if it is the gradient of what follows that needs it. Only of frozen layers.

    Returns:
        (..., out).
    """
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if (trained and torch.is_grad_enabled()) or not suits(tokens, weight):
        plain = F.linear(tokens, weight, bias)
        return F.gelu(plain) if gelu else plain
    if torch.is_grad_enabled() and tokens.requires_grad:
        frozen: Tensor = _FrozenLinear.apply(tokens, weight, bias, once)
        return F.gelu(frozen) if gelu else frozen
    return product(tokens, weight, bias, gelu)


class _FrozenLinear(torch.autograd.Function):
    """x Wᵀ + b with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None, once: bool) -> Tensor:
        ctx.weight = weight  # not by save_for_backward: a checkpoint would compute this layer again to have it
        return computed_once(lambda: product(tokens, weight, bias)) if once else product(tokens, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if torch.is_grad_enabled():  # a second derivative is wanted
            return grad @ ctx.weight, None, None, None
        return product(grad, turned(ctx.weight), None), None, None, None


def turned(weight: Tensor) -> Tensor:
    """Wᵀ as :func:`product` is fastest with it: oneDNN lays out anew, slowly, what does not lie in rows."""
    return weight.T.contiguous() if _by_onednn() else weight.T


def product(tokens: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """:func:`linear` without a gradient, by the faster library; only where :func:`suits` says so."""
    if not _by_onednn():
        plain = F.linear(tokens, weight, bias)
        return F.gelu(plain) if gelu else plain
    attribute, algorithm = ("gelu", "none") if gelu else ("none", "")  # "none" of its algorithms is the exact GELU
    return torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, attribute, [], algorithm)


def suits(tokens: Tensor, weight: Tensor) -> bool:
    """Whether a frozen layer of this weight is worth more than PyTorch's own layer, on a processor."""
    return (
        not is_recorded()
        and tokens.device.type == "cpu"
        and tokens.dtype == weight.dtype == torch.float32
        and weight.numel() >= _WORTHWHILE
        and not torch.is_autocast_enabled("cpu")
    )


def _by_onednn() -> bool:
    return _HAS_OPERATOR and _IS_FASTER and bool(torch.backends.mkldnn.enabled)


def _has_operator() -> bool:
    """Whether this PyTorch has the operator with the arguments that are meant here, on x86."""
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if found is None or not torch.backends.mkldnn.is_available():
        return False
    named = [argument.name for argument in found.default._schema.arguments]
    return named == _ARGUMENTS and _CAPABILITY in ("AVX2", "AVX512")


_CAPABILITY = torch.backends.cpu.get_cpu_capability()
_HAS_OPERATOR = _has_operator()
_IS_FASTER = _CAPABILITY == "AVX512"
