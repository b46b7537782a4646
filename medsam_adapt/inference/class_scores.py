"""Logits of classes, their probabilities, and the class that they decide on.

Classes that exclude each other have a softmax, with background first; classes that may overlap have a sigmoid each.
"""

from __future__ import annotations

import torch
from torch import Tensor

ABSENT_LOGIT = -1e4  # of a class that is never chosen: no softmax and no argmax brings it back; finite in float16


def probabilities_of(logits: Tensor, overlapping: bool) -> Tensor:
    """Probabilities (n, K, …) of logits (n, K, …)."""
    return logits.sigmoid() if overlapping else logits.softmax(dim=1)


def logits_of(probabilities: Tensor, overlapping: bool, smallest: float = 0.0) -> Tensor:
    """Logits (n, K, …) whose probabilities are (n, K, …), none of which is taken as smaller than ``smallest``."""
    if overlapping:
        return probabilities.clamp(smallest, 1 - smallest).logit()
    return probabilities.clamp(min=smallest).log()


def decide(scores: Tensor, overlapping: bool, even: float = 0.0) -> Tensor:
    """Classes (n, 1, rows, columns) uint8 with the highest score, or where they may overlap masks (n, K, …) uint8.

    Args:
        scores: (n, K, rows, columns); of classes that exclude each other, background first.
        overlapping: whether classes may overlap.
        even: the score above which a class that may overlap is there.
    """
    if overlapping:
        return (scores > even).to(torch.uint8)
    # max, whose indices are argmax's: over a dimension in front, torch is several times slower at argmax on a CPU.
    return scores.max(dim=1, keepdim=True).indices.to(torch.uint8)
