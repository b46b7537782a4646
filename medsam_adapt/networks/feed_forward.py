"""The feed-forward layers of SAM's encoder blocks, a part of the tokens at a time where no gradient is wanted."""

from __future__ import annotations

import torch
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

from medsam_adapt.networks.products import TokenLinear
from medsam_adapt.networks.running import is_recorded

_TOKENS = 512  # at a time; their hidden features are 6 MiB in ViT-B, of all tokens at 1024 pixels 48 MiB


class FeedForward(nn.Module):
    """Two linear layers with an activation between, on the last dimension of (..., C).

    Hidden features are four times as many as tokens have. Without gradients they are made for some tokens at a time on
    the CPU, so that the same memory is used again; the result is that of all at once, but for rounding.

    Args:
        plain: the layers that are replaced, taken over with their names.
    """

    def __init__(self, plain: MLPBlock) -> None:
        super().__init__()
        self.lin1, self.lin2, self.act = TokenLinear(plain.lin1), TokenLinear(plain.lin2), plain.act

    def forward(self, tokens: Tensor) -> Tensor:
        if torch.is_grad_enabled() or is_recorded() or tokens.device.type != "cpu":
            return self.lin2(self.act(self.lin1(tokens)))
        parts = tokens.flatten(0, -2).split(_TOKENS)
        return torch.cat([self.lin2(self._hidden(part)) for part in parts]).reshape(tokens.shape)

    def _hidden(self, tokens: Tensor) -> Tensor:
        if isinstance(self.lin1, TokenLinear) and isinstance(self.act, nn.GELU) and self.act.approximate == "none":
            return self.lin1(tokens, gelu=True)
        return self.act(self.lin1(tokens))
