"""The segmentation loss that the methods share: cross-entropy and Dice, by head."""

from __future__ import annotations

import torch.nn.functional as F
from monai.losses import DiceCELoss
from torch import Tensor, nn

from medsam_adapt.networks.segmenter import Head


class SegmentationLoss(nn.Module):
    """L = w_ce CE + w_dice Dice, Dice = mean over channels of 1 - (2 Σ p t + ε) / (Σ p² + Σ t² + ε), ε = 1e-5.

    The sums run over batch and pixels. ``exclusive`` heads use softmax (background included), the others sigmoid and
    binary cross-entropy. A label larger than the logits is reduced to them by nearest neighbour.

    Args:
        head: of the segmenter.
        ce_weight: w_ce.
        dice_weight: w_dice.
    """

    def __init__(self, head: Head = "exclusive", ce_weight: float = 1.0, dice_weight: float = 1.0) -> None:
        super().__init__()
        self.loss = DiceCELoss(
            softmax=head == "exclusive",
            sigmoid=head != "exclusive",
            to_onehot_y=head == "exclusive",
            squared_pred=True,
            batch=True,
            lambda_ce=ce_weight,
            lambda_dice=dice_weight,
        )
        self.head = head

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss of logits (B, C', h, w); label: classes (B, 1, H, W), or masks (B, C', H, W) for sigmoid heads."""
        if label.shape[-2:] != logits.shape[-2:]:
            label = F.interpolate(label.float(), logits.shape[-2:], mode="nearest-exact")
        return self.loss(logits, label if self.head == "exclusive" else label.to(logits.dtype))
