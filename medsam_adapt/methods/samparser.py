"""SAM-PARSER (arXiv 2308.14604, AAAI 2024): only the singular values of frozen weights are tuned.

    W = U Σ Vᵀ once, at the start;    W' = U diag(σ') Vᵀ with U and V frozen

The authors' code keeps floor(rank / 4) · 4 of the singular values, and trains the whole neck through a slip in its
test of parameter names; here every layer keeps its full rank, and only σ' is trained.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medsam_adapt.core.errors import InputError
from medsam_adapt.networks.adapter import Adapter, train_decoder

Layers = Literal["neck", "attention", "all"]


class SingularValueReconstruction(nn.Module):
    """Parametrisation of a weight (out, ...) as W' = U diag(σ') Vᵀ, with the kernel of a convolution flattened.

    ``left`` is U (out, k) and ``right`` Vᵀ (k, in · kernel), buffers; ``singular_values`` is σ' (k,), the only
    parameter, k the full rank.

    Args:
        weight: gives shape, type and device; torch hands its values to :meth:`right_inverse` on registration.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        rank = min(rows, columns)
        self.shape = weight.shape
        self.singular_values = nn.Parameter(weight.new_empty(rank))
        self.register_buffer("left", weight.new_empty(rows, rank))
        self.register_buffer("right", weight.new_empty(rank, columns))

    def forward(self, original: Tensor) -> Tensor:
        return (self.left * self.singular_values @ self.right).view(self.shape)

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """Decompose ``weight``; torch keeps the empty tensor returned in place of the original weight.

        Double precision distinguishes close singular values, so that another machine finds the same U and V.
        """
        left, values, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
        self.left.copy_(left)
        self.singular_values.copy_(values)
        self.right.copy_(right)
        return weight.new_empty(0)


def reconstruct(module: nn.Module) -> nn.Module:
    """Freeze a layer and make the singular values of its weight trainable, in place; returns the layer.

    The layer computes the same as before. Its singular values are its attribute ``singular_values``, and
    ``torch.nn.utils.parametrize.remove_parametrizations(module, "weight")`` makes it a plain layer again.

    Args:
        module: Linear or Conv2d.

    Raises:
        InputError: when it is another type of layer, or reconstructed already.
    """
    if not isinstance(module, (nn.Linear, nn.Conv2d)):
        raise InputError(
            f"layers: SAM-PARSER cannot decompose a {type(module).__name__}. Give it a Linear or Conv2d layer."
        )
    if parametrize.is_parametrized(module, "weight"):
        raise InputError(
            "layers: SAM-PARSER cannot decompose a layer whose weight is parametrised already. Attach it once."
        )
    module.requires_grad_(False)
    parametrize.register_parametrization(module, "weight", SingularValueReconstruction(module.weight))
    # torch has just given this one layer a separate class, in which ``weight`` is such a property too.
    type(module).singular_values = property(singular_values)  # type: ignore[union-attr]
    return module


def singular_values(module: nn.Module) -> nn.Parameter:
    """The trainable singular values (k,) of a layer that :func:`reconstruct` was given.

    Raises:
        InputError: when the layer is not reconstructed.
    """
    if parametrize.is_parametrized(module, "weight"):
        for parametrization in module.get_submodule("parametrizations.weight").children():
            if isinstance(parametrization, SingularValueReconstruction):
                return parametrization.singular_values
    raise InputError(
        f"{type(module).__name__}: this layer has no trainable singular values. Call reconstruct on it first."
    )


class Parser(Adapter):
    """SAM-PARSER on layers of the image encoder; the mask decoder is tuned beside it.

    Trainable in the encoder: the rank of each layer covered. For the neck, a 1 x 1 and a 3 x 3 convolution, that is
    twice the channels of the image embedding (512 on ViT-B, L and H).

    Args:
        layers: ``neck`` (its two convolutions, as in the paper), ``attention`` (qkv and output projection of every
            block), or ``all`` (every linear layer and convolution of the encoder).

    Raises:
        InputError: when ``layers`` is none of these.
    """

    mergeable = True

    def __init__(self, layers: Layers = "neck") -> None:
        if layers not in get_args(Layers):
            raise InputError(
                f"layers: SAM-PARSER has no layers called {layers!r}. Use one of {', '.join(get_args(Layers))}."
            )
        self.layers = layers

    def covered(self, sam: Sam) -> dict[str, nn.Module]:
        """The layers of ``sam`` that are, or would be, reconstructed, by name.

        Raises:
            InputError: when there is none.
        """
        found: dict[str, nn.Module] = {
            f"image_encoder.{name}": module
            for name, module in sam.image_encoder.named_modules()
            if isinstance(module, (nn.Linear, nn.Conv2d)) and self._covers(name)
        }
        if not found:
            raise InputError(
                f"layers={self.layers!r}: SAM-PARSER found no linear layer or convolution in this image encoder. Use a "
                "plain SAM, or other layers."
            )
        return found

    def _covers(self, name: str) -> bool:
        if self.layers == "attention":
            return name.endswith((".attn.qkv", ".attn.proj"))
        return self.layers == "all" or name.startswith("neck.")

    def attach(self, sam: Sam) -> Sam:
        for module in self.covered(sam).values():
            reconstruct(module)
        train_decoder(sam)
        return sam

    def merge(self, sam: Sam) -> Sam:
        for module in self.covered(sam).values():
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        return sam
