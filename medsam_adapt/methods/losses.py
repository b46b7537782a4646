"""The segmentation losses: cross-entropy and Dice, and the structure loss of InfoSAM, by head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapt.core.distributed import all_mean, all_sum
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.label_coding import IGNORED
from medsam_adapt.networks.segmenter import Head

EPSILON = 1e-5


class SegmentationLoss(nn.Module):
    """L = w_ce CE + w_dice Dice, Dice = mean over channels of 1 - (2 Σ p t + ε) / (Σ p² + Σ t² + ε), ε = 1e-5.

    The sums run over pixels and batch, of all processes that train together, `IGNORED` pixels left out. ``exclusive``
    heads use softmax (background included), the others sigmoid and binary cross-entropy. A label larger than the
    logits is reduced to them by nearest neighbour.

    Where classes were not annotated, the label of an ``exclusive`` head is what each pixel may be (B, C', H, W), 0 or
    1: CE = -log of the summed probability of all that it may be, and in Dice such a pixel counts for the background
    alone, with that sum (the marginal loss of Shi et al., Medical Image Analysis 70, 2021). For sigmoids an `IGNORED`
    pixel of one mask counts in the others.

    With a ``balance`` β > 0, CE is the weighted mean of the pixels' cross-entropies in which a pixel of class c has the
    weight (N / N_c)^β, N_c of the N known pixels being of that class: without it, networks that start anew may draw
    nothing of a class of few pixels for hundreds of steps. Sigmoids weigh a mask's inside against its outside.

    Args:
        head: of the segmenter.
        ce_weight: w_ce.
        dice_weight: w_dice.
        balance: β; 0 weighs all pixels alike, 1 all classes.
    """

    def __init__(
        self, head: Head = "exclusive", ce_weight: float = 1.0, dice_weight: float = 1.0, balance: float = 0.0
    ) -> None:
        super().__init__()
        self.head, self.ce_weight, self.dice_weight, self.balance = head, ce_weight, dice_weight, balance

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss of logits (B, C', h, w).

        Args:
            logits: of the head.
            label: classes (B, 1, H, W), or what pixels may be (B, C', H, W); for sigmoids masks (B, C', H, W).
        """
        from monai.losses.utils import compute_tp_fp_fn  # only here: a run that predicts needs no MONAI

        logits = _single_precision(logits)
        label = _reduced(label, logits)
        known = label != IGNORED
        weights = known.to(logits.dtype)  # not an index: to count the known pixels, a step would wait for its device
        if self.head == "exclusive" and label.shape[1] > 1:
            probabilities, truth, cross_entropy, known = _marginal(logits, label > 0)
        elif self.head == "exclusive":
            classes = torch.arange(logits.shape[1], device=label.device).view(1, -1, 1, 1)
            probabilities, truth = logits.softmax(dim=1) * weights, (label == classes).to(logits.dtype)
            target = label[:, 0].long()
            cross_entropy = F.cross_entropy(logits, target, reduction="none", ignore_index=IGNORED)[:, None]
        else:
            probabilities, truth = logits.sigmoid() * weights, label.to(logits.dtype) * weights
            cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, weights, reduction="none")
        axes = [0, *range(2, truth.ndim)]
        # ord=2 makes the squares of the denominator: 2 TP + FP + FN = Σ p² + Σ t², with TP = Σ p t.
        counts = compute_tp_fp_fn(probabilities, truth, axes, ord=2, soft_label=False)
        counted = self._weights(truth, known) if self.balance else known.to(logits.dtype)
        summed = torch.stack([(cross_entropy * counted).sum(), counted.sum()])
        sums = all_sum(torch.cat([*counts, summed]))
        both, predicted_only, true_only = sums[:-2].chunk(3)
        dice = 1 - (2 * both + EPSILON) / (2 * both + predicted_only + true_only + EPSILON)
        # Without one known pixel there is nothing to learn from, and a gradient of zero all the same.
        return self.dice_weight * dice.mean() + self.ce_weight * sums[-2] / sums[-1].clamp(min=1)

    def _weights(self, truth: Tensor, known: Tensor) -> Tensor:
        """(N / N_c)^β of the class of every known pixel, 0 elsewhere: (B, 1, h, w), or of sigmoids (B, C', h, w).

        Args:
            truth: (B, C', h, w), 0 or 1, without unknown pixels.
            known: (B, 1 or C', h, w) bool; its pixels of no class in ``truth`` weigh as background does.
        """
        axes = [0, *range(2, truth.ndim)]
        inside, size = all_sum(truth.sum(axes)), all_sum(known.to(truth.dtype).sum(axes))

        def weight(count: Tensor) -> Tensor:
            return (size / count.clamp(min=1)).clamp(min=1) ** self.balance

        if self.head == "exclusive":
            weighted = torch.einsum("bchw,c->bhw", truth, weight(inside))[:, None]
            rest = weight(inside)[0] * (truth.sum(dim=1, keepdim=True) == 0)
        else:
            shape = (1, -1, *[1] * (truth.ndim - 2))
            weighted = truth * weight(inside).view(shape)
            rest = (1 - truth) * weight(size - inside).view(shape)
        return (weighted + rest) * known


def _marginal(logits: Tensor, possible: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the loss is made of where classes were not annotated.

    Args:
        logits: (B, C', h, w), background first.
        possible: (B, C', h, w) bool, what each pixel may be; one that may be anything does not count.

    Returns:
        Probabilities and truth for Dice (B, C', h, w), cross-entropies and which pixels count (B, 1, h, w).
    """
    known = ~possible.all(dim=1, keepdim=True)
    weights = known.to(logits.dtype)
    together = logits.masked_fill(~possible, -torch.inf).logsumexp(dim=1, keepdim=True)
    probability = (together - logits.logsumexp(dim=1, keepdim=True)).clamp(max=0)
    cross_entropy = -probability * weights
    certain = possible.sum(dim=1, keepdim=True) == 1
    background = possible[:, :1]  # what may be several things may be background: a class that was drawn is known
    probabilities = logits.softmax(dim=1) * weights
    unsure = ~certain & possible
    marginal = torch.where(background, probability.exp() * weights, probabilities[:, :1])
    kept = (probabilities * ~unsure)[:, 1:]
    truth = torch.cat([background, possible[:, 1:] & certain], dim=1).to(logits.dtype) * weights
    return torch.cat([marginal, kept], dim=1), truth, cross_entropy, known


class StructureLoss(nn.Module):
    """Boundary-weighted binary cross entropy plus boundary-weighted IoU, with p = sigmoid(logits).

        w     = 1 + 5 |avgpool_31(y) - y|
        L_bce = Σ w bce / Σ w
        L_iou = 1 - (Σ w p y + 1) / (Σ w (p + y) - Σ w p y + 1)

    The sums run over the pixels of one channel of one image. Each channel counts as a separate image, and the
    loss is the mean of L_bce + L_iou over channels and images, of all processes. `IGNORED` pixels have w = 0. A label
    larger than the logits is reduced to them by nearest neighbour.

    Args:
        weighted_bce: whether w weights the cross entropy too. The released code means to, but passes
            ``reduce="none"``, which averages before it weights: False repeats that.
    """

    def __init__(self, weighted_bce: bool = True) -> None:
        super().__init__()
        self.weighted_bce = weighted_bce

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (B, C, H, W), or (B, H, W) for one channel.
            labels: likewise, 0 or 1.

        Raises:
            InputError: when the numbers of channels differ.
        """
        logits, labels = (maps.unsqueeze(1) if maps.ndim == 3 else maps for maps in (logits, labels))
        logits = _single_precision(logits)
        labels = _reduced(labels, logits)
        if logits.shape != labels.shape:
            raise InputError(
                f"labels: the structure loss got logits {tuple(logits.shape)} and labels {tuple(labels.shape)}. Give "
                "one label map per channel, of the size of the logits."
            )
        known = (labels != IGNORED).to(logits.dtype)
        labels = labels.to(logits.dtype) * known
        weights = boundary_weights(labels) * known
        bce_weights = weights if self.weighted_bce else known
        cross_entropy = weighted_cross_entropy(logits, labels, bce_weights)
        return all_mean((cross_entropy + weighted_iou_loss(logits, labels, weights)).mean())


def boundary_weights(labels: Tensor) -> Tensor:
    """w = 1 + 5 |avgpool_31(y) - y| of labels y (B, C, H, W): large near a border; zeros outside count in the mean."""
    rows = F.avg_pool2d(labels, (31, 1), stride=1, padding=(15, 0))
    mean = F.avg_pool2d(rows, (1, 31), stride=1, padding=(0, 15))  # two passes: 62 additions a pixel instead of 961
    return 1 + 5 * (mean - labels).abs()


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Σ w bce / Σ w, (B, C, H, W) -> (B, C)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (weights * cross_entropy).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)).clamp(min=1e-6)


def weighted_iou_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """1 - (Σ w p y + 1) / (Σ w (p + y) - Σ w p y + 1), (B, C, H, W) -> (B, C)."""
    probabilities = logits.sigmoid()
    intersection = (weights * probabilities * labels).sum(dim=(2, 3))
    total = (weights * (probabilities + labels)).sum(dim=(2, 3))
    return 1 - (intersection + 1) / (total - intersection + 1)


def _single_precision(logits: Tensor) -> Tensor:
    """Half precision cannot hold the sums."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _reduced(label: Tensor, logits: Tensor) -> Tensor:
    """``label`` (B, C, H, W) at the size of ``logits`` (B, C', h, w)."""
    if label.shape[-2:] == logits.shape[-2:]:
        return label
    return F.interpolate(label.float(), logits.shape[-2:], mode="nearest-exact")
