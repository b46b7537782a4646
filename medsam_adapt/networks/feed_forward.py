"""The feed-forward layers of SAM's encoder blocks, on the processor for a part of the tokens at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

from medsam_adapt.networks.products import TokenLinear
from medsam_adapt.networks.running import is_recorded

_TOKENS = 512  # at a time at least; their hidden features are 6 MiB in ViT-B, of all tokens at 1024 pixels 48 MiB
_FEATURES = _TOKENS * 768  # at a time, if that is more tokens: those of a narrower network than ViT-B are smaller


def by_parts(function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """``function`` of tokens (..., C), which acts on each token alone: on the processor for some of them at a time.

    What it makes inside stays in the caches then, and takes the same memory again; the result is that of all at once,
    but for rounding.
    """
    most = max(_TOKENS, _FEATURES // tokens.shape[-1])
    if is_recorded() or tokens.device.type != "cpu" or tokens.shape[:-1].numel() <= most:
        return function(tokens)
    parts = tokens.flatten(0, -2).split(most)
    return torch.cat([function(part) for part in parts]).unflatten(0, tokens.shape[:-1])


class FeedForward(nn.Module):
    """Two linear layers with an activation between, on the last dimension of (..., C).

    Hidden features are four times as many as tokens have, so they are made by parts.

    Args:
        plain: the layers that are replaced, taken over with their names.
    """

    def __init__(self, plain: MLPBlock) -> None:
        super().__init__()
        self.lin1, self.lin2, self.act = TokenLinear(plain.lin1), TokenLinear(plain.lin2), plain.act

    def forward(self, tokens: Tensor) -> Tensor:
        return by_parts(self._at_once, tokens)

    def _at_once(self, tokens: Tensor) -> Tensor:
        if isinstance(self.lin1, TokenLinear) and isinstance(self.act, nn.GELU) and self.act.approximate == "none":
            return self.lin2(self.lin1(tokens, gelu=True))
        return self.lin2(self.act(self.lin1(tokens)))
