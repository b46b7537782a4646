"""The feed-forward layers of SAM's encoder blocks, on the processor for a part of the tokens at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

from medsam_adapt.core.precision import is_computed_again, is_recorded, is_second_pass
from medsam_adapt.kernels.gelu_gradients import can_keep_gelu_gradients, feed_forward

OfTokens = Callable[[Tensor], Tensor]
_TOKENS = 512  # at a time at least; their hidden features are 6 MiB in ViT-B, of all tokens at 1024 pixels 48 MiB
_FEATURES = _TOKENS * 768  # at a time, if that is more tokens: those of a narrower network than ViT-B are smaller


def by_parts(tokens: Tensor, first: OfTokens, then: OfTokens = lambda inside: inside) -> Tensor:
    """``then(first(tokens))``, which acts on each of the tokens (..., C) alone: on the processor for some at a time.

    What is made inside stays in the caches then, and takes the same memory again; the result is that of all at once,
    but for rounding. Where a stage is computed again for its gradient, ``first`` of all parts comes before ``then``:
    if that needs nothing for its gradient, the checkpoint is content before it.
    """
    most = _at_a_time(tokens)
    if is_recorded() or tokens.device.type != "cpu" or tokens.shape[:-1].numel() <= most:
        return then(first(tokens))
    parts = tokens.flatten(0, -2).split(most)
    if is_computed_again():
        inside = [first(part) for part in parts]
        results = [then(each) for each in inside]
    else:
        results = [then(first(part)) for part in parts]
    return torch.cat(results).unflatten(0, tokens.shape[:-1])


def _at_a_time(tokens: Tensor) -> int:
    return max(_TOKENS, _FEATURES // tokens.shape[-1])


class FeedForward(nn.Module):
    """Two linear layers with an activation between, on the last dimension of (..., C).

    Hidden features are four times as many as tokens have, so they are made by parts.

    Args:
        plain: the layers that are replaced, taken over with their names.

    Attributes:
        needed_again: whether the gradient of a later layer needs the result, as those of InfoSAM's adapters do; the
            first training step with ``--low-memory`` finds out.
    """

    def __init__(self, plain: MLPBlock) -> None:
        super().__init__()
        self.lin1, self.lin2, self.act = plain.lin1, plain.lin2, plain.act
        self.needed_again = False

    def forward(self, tokens: Tensor) -> Tensor:
        if can_keep_gelu_gradients(tokens, self.lin1, self.lin2, self.act):
            keep = self.needed_again
            self.needed_again = keep or is_second_pass()  # a second pass that comes this far is after the result
            return feed_forward(tokens, self.lin1, self.lin2, _at_a_time(tokens), keep)
        return by_parts(tokens, self._inside, self.lin2)

    def _inside(self, tokens: Tensor) -> Tensor:
        return self.act(self.lin1(tokens))
