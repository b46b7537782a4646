"""Linear layers and convolutions on a processor by oneDNN, where nothing needs a gradient.

PyTorch multiplies matrices by MKL, which takes twice as long on processors of AMD, and goes through memory once more
for a GELU. For TinyViT, whose hidden features are four times as many as its tokens have, that GELU is a third of the
time. The operators have no public name; PyTorch's compiler calls them in what it compiles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapt.core.precision import is_recorded

_LINEAR_ARGUMENTS = ["X", "W", "B", "attr", "scalars", "algorithm"]
_CONVOLUTION_ARGUMENTS = ["X", "W", "B", "padding", "stride", "dilation", "groups", "attr", "scalars", "algorithm"]


def needs_no_gradient(features: Tensor, module: nn.Module) -> bool:
    """Whether ``module`` may take these forms: on a processor, not recorded, and nothing in it needs a gradient."""
    if features.device.type != "cpu" or is_recorded():
        return False
    if not torch.is_grad_enabled():
        return True
    return not (features.requires_grad or any(parameter.requires_grad for parameter in module.parameters()))


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """x Wᵀ + b of tokens (..., in), and GELU of it if wanted, (..., out), without a gradient."""
    if _fuses(tokens, weight):
        then, form = ("gelu", "none") if gelu else ("none", "")  # the form of a GELU that is not approximate
        result: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, then, [], form)
        return result
    plain = F.linear(tokens, weight, bias)
    return F.gelu(plain) if gelu else plain


def product(left: Tensor, right: Tensor) -> Tensor:
    """L Rᵀ of matrices (B, m, k) and (B, n, k), without a gradient; by oneDNN where there is one of each."""
    return linear(left, right[0], None) if len(left) == len(right) == 1 else left @ right.transpose(1, 2)


def by_layer(tokens: Tensor, layer: nn.Module, gelu: bool = False) -> Tensor:
    """As :func:`linear`, of a linear layer; of another layer in its place, such as an adapter, what it gives."""
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward and not _is_parametrised(layer):
        return linear(tokens, layer.weight, layer.bias, gelu)
    plain: Tensor = layer(tokens)
    return F.gelu(plain) if gelu else plain


def depthwise_gelu(features: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: tuple[int, int]) -> Tensor:
    """GELU of a convolution of each channel by itself, (B, H, W, C) -> (B, h, w, C), without a gradient."""
    channels_first = features.permute(0, 3, 1, 2)
    given = channels_first, weight, bias, list(padding), [stride, stride], [1, 1], len(weight)
    if _fuses(features, weight):
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(*given, "gelu", [], "none")
    else:
        result = F.gelu(F.conv2d(*given[:3], stride=stride, padding=padding, groups=len(weight)))
    return result.permute(0, 2, 3, 1)


def _is_parametrised(layer: nn.Module) -> bool:
    return hasattr(layer, "parametrizations")


def _fuses(features: Tensor, weight: Tensor) -> bool:
    return (
        _HAS_OPERATORS
        and features.device.type == "cpu"
        and features.dtype == weight.dtype == torch.float32
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


def _has_operators() -> bool:
    """Whether this PyTorch has the operators with the arguments that are meant here, for a processor that gains."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    for name, arguments in (
        ("_linear_pointwise", _LINEAR_ARGUMENTS),
        ("_convolution_pointwise", _CONVOLUTION_ARGUMENTS),
    ):
        found = getattr(torch.ops.mkldnn, name, None)
        if found is None or [each.name for each in found.default._schema.arguments] != arguments:
            return False
    return True


_HAS_OPERATORS = _has_operators()
