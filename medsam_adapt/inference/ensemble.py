"""The joint result of one or several passes over the same slices: the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from medsam_adapt.inference.class_scores import decide, probabilities_of


class Scores:
    """The scores of a batch of slices, from one pass or the mean of several.

    Args:
        passes: logits (n, K, rows, columns) of each pass, taken one after the other.
        overlapping: whether classes may overlap (sigmoid of each) or exclude each other (softmax, background first).
    """

    def __init__(self, passes: Iterable[Tensor], overlapping: bool) -> None:
        self.overlapping = overlapping
        self._logits: Tensor | None = None
        self._sum: Tensor | None = None
        self._count = 0
        for logits in passes:
            if self._logits is not None:  # a second pass: from here on the sum stands for all
                self._sum, self._logits = self._activated(self._logits), None
            if self._sum is None:
                self._logits = logits
            else:
                self._sum += self._activated(logits)
            self._count += 1

    @property
    def probabilities(self) -> Tensor:
        """(n, K, rows, columns), the mean over the passes."""
        if self._logits is not None:
            return self._activated(self._logits)
        assert self._sum is not None, "there is at least one pass"
        return self._sum / self._count

    def decide(self) -> Tensor:
        """Classes (n, 1, rows, columns) uint8, or where they may overlap masks (n, K, rows, columns) uint8."""
        # Of one pass the logits decide, whose order no rounding of a softmax has touched.
        scores, even = (self._logits, 0.0) if self._logits is not None else (self.probabilities, 0.5)
        return decide(scores, self.overlapping, even)

    def uncertainty(self) -> Tensor:
        """(n, rows, columns) in 0..1: entropy as a share of its maximum; the largest over classes that may overlap."""
        chances = self.probabilities
        if self.overlapping:
            both = torch.stack([chances, 1 - chances])
            return (torch.special.entr(both).sum(dim=0) / math.log(2)).amax(dim=1).clamp(0, 1)
        return (torch.special.entr(chances).sum(dim=1) / math.log(chances.shape[1])).clamp(0, 1)

    def _activated(self, logits: Tensor) -> Tensor:
        return probabilities_of(logits, self.overlapping)
