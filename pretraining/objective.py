"""SAM's training objective: focal and Dice loss of its masks, and the error of its guess at their quality.

Kirillov et al., Segment Anything (arXiv 2304.02643, appendix A): focal and Dice loss in the ratio 20 to 1, only the
best of the ambiguous masks learns, and a mean square error trains the head that predicts each mask's IoU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from medsam_adapt.networks.segmenter import Segmenter

FOCAL_WEIGHT = 20.0
# Of a focal loss for detection alpha is 0.25; here that draws uncertain structures too small for hundreds of steps.
_ALPHA, _GAMMA = 0.65, 2.0


class AllMasks(Segmenter):
    """A segmenter that draws all four of SAM's masks and returns the quality that SAM predicts for them."""

    def __init__(self, sam: Sam) -> None:
        super().__init__(sam, head="overlapping")
        self._iou_token: Tensor | None = None
        sam.mask_decoder.transformer.register_forward_hook(self._keep_iou_token)

    def _keep_iou_token(self, module: Any, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        self._iou_token = outputs[0][:, 0]

    def masks_and_quality(
        self, embedding: Tensor, boxes: Tensor | None = None, points: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Low-resolution logits (B, 4, s, s) and predicted IoU (B, 4); arguments as in :meth:`Segmenter.predict`."""
        logits = self.decode(embedding, boxes, points, upsample=False).low_res_logits
        assert self._iou_token is not None
        return logits, self.sam.mask_decoder.iou_prediction_head(self._iou_token)


def mask_losses(logits: Tensor, target: Tensor) -> Tensor:
    """20 × focal + Dice loss of each mask: logits and targets (in 0..1) of (..., h, w) -> (...)."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = probability + target - 2 * probability * target  # 1 - the probability of the right answer
    balance = 1 - _ALPHA + (2 * _ALPHA - 1) * target
    focal = (balance * missed**_GAMMA * cross_entropy).mean(dim=(-2, -1))
    overlap, total = (probability * target).sum(dim=(-2, -1)), (probability + target).sum(dim=(-2, -1))
    return FOCAL_WEIGHT * focal + 1 - (2 * overlap + 1) / (total + 1)


def true_quality(logits: Tensor, target: Tensor) -> Tensor:
    """IoU (...) of masks: logits > 0 against targets > 0.5, both (..., h, w)."""
    drawn, wanted = logits > 0, target > 0.5
    either = (drawn | wanted).sum(dim=(-2, -1))
    return (drawn & wanted).sum(dim=(-2, -1)) / either.clamp(min=1)


def objective(logits: Tensor, quality: Tensor, target: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch, and what to log of it.

    Mask token 0 answers every prompt and is compared at full resolution, so that borders between its pixels are
    learned too. The best of the three others learns as well; at their own resolution, which determines the best one.

    Args:
        logits: (B, 4, s, s), of which the first is mask token 0.
        quality: (B, 4) predicted IoU.
        target: (B, S, S) float masks, 0 or 1; S is a multiple of s.
    """
    logits, quality = logits.float(), quality.float()
    enlarged = F.interpolate(logits[:, :1], target.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    small = F.avg_pool2d(target[:, None], target.shape[-1] // logits.shape[-1])
    single = mask_losses(enlarged, target).mean()
    ambiguous = mask_losses(logits[:, 1:], small.expand(-1, 3, -1, -1)).min(dim=1).values.mean()
    with torch.no_grad():
        truth = torch.cat([true_quality(enlarged, target)[:, None], true_quality(logits[:, 1:], small)], dim=1)
    guess = F.mse_loss(quality, truth)
    report = {
        "single": single.item(),
        "ambiguous": ambiguous.item(),
        "quality": guess.item(),
        "iou": truth[:, 0].mean().item(),
        "iou_best": truth[:, 1:].max(dim=1).values.mean().item(),
    }
    return single + ambiguous + guess, report
