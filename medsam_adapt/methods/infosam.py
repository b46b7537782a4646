"""InfoSAM (arXiv 2505.21920, ICML 2025): distil what relates an image to its mask from SAM to its adapted copy.

The teacher is the frozen SAM, the student SAM with an adapter; both see the same images and prompts. A relation
module f, one for both and trained with the student, turns the image embedding z_i and the mask decoder's output
token z_m into r = f(z_i, z_m). With G_x the Gram matrix of x over the batch, ∘ the Hadamard product, and H the
matrix-based Rényi entropy of order 2, two terms join the segmentation loss:

    L_r = H(G_f^T) - H(G_i ∘ G_m ∘ G_f^T)                 compression: r tells little of (z_i, z_m)
    L_d = H(G_f^T ∘ G_f^S) - H(G_f^T) - H(G_f^S)          distillation: minus the information that T and S share
    L   = L_seg + λ_1 L_r + λ_2 L_d

The paper's Eq. 11 and 13 write the products without dividing by their trace; the released code and we divide.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapt.errors import InputError


class RelationModule(nn.Module):
    """r = s / ‖s‖ per image, s = Q Kᵀ / √D + LN(z_m) LN(z_i)ᵀ, Q = W_q LN(z_m) + b_q, K = W_k LN(z_i) + b_k.

    (The paper's Eq. 9 adds the raw z_m z_iᵀ instead; we follow the released code.) Image tokens (B, HW, D) and mask
    token (B, 1, D) -> relation (B, HW), each row of unit length.

    Args:
        dim: channels D of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_proj, self.key_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_image, self.norm_mask = nn.LayerNorm(dim, eps=1e-5), nn.LayerNorm(dim, eps=1e-5)

    def forward(self, image_tokens: Tensor, mask_token: Tensor) -> Tensor:
        return F.normalize(self.scores(image_tokens, mask_token), dim=1, eps=1e-12)

    def scores(self, image_tokens: Tensor, mask_token: Tensor) -> Tensor:
        """s, the relation before it is normalised, (B, HW)."""
        image, mask = self.norm_image(image_tokens), self.norm_mask(mask_token)
        query, key = self.query_proj(mask), self.key_proj(image)
        attention = query @ key.mT / math.sqrt(image.shape[-1])
        return (attention + mask @ image.mT).flatten(1)


def compression_loss(image_tokens: Tensor, mask_token: Tensor, relation: Tensor) -> Tensor:
    """L_r = H(G_f) - H(G_i ∘ G_m ∘ G_f), a scalar.

    Args:
        image_tokens: the teacher's, (B, HW, D).
        mask_token: the teacher's, (B, 1, D).
        relation: the teacher's, (B, HW), from :class:`RelationModule`.

    Raises:
        InputError: when the batch holds one image.
    """
    image_gram = _gram(F.normalize(image_tokens.flatten(1), dim=1))
    mask_gram = _gram(F.normalize(mask_token.flatten(1), dim=1))
    relation_gram = _gram(relation)
    return _entropy(relation_gram) - _entropy(image_gram * mask_gram * relation_gram)


def distillation_loss(teacher_relation: Tensor, student_relation: Tensor) -> Tensor:
    """L_d = H(G_T ∘ G_S) - H(G_T) - H(G_S), a scalar: minus the mutual information of order 2.

    Args:
        teacher_relation: (B, HW), from :class:`RelationModule`.
        student_relation: (B, HW), from the same module.

    Raises:
        InputError: when the batch holds one image.
    """
    teacher, student = _gram(teacher_relation), _gram(student_relation)
    return _entropy(teacher * student) - _entropy(teacher) - _entropy(student)


def _gram(features: Tensor) -> Tensor:
    """Inner products of the images of a batch, (B, N) -> (B, B), in single precision at least."""
    if len(features) < 2:
        raise InputError("InfoSAM compares the images of a batch with each other: use a batch size of 2 or more.")
    with torch.autocast(features.device.type, enabled=False):
        features = _single_precision(features)
        return features @ features.mT


def _entropy(gram: Tensor) -> Tensor:
    """Matrix-based Rényi entropy of order 2 in bits, H(G) = -log2 ‖G / tr G‖²_F: (B, B) -> scalar."""
    return -(gram / gram.trace()).square().sum().log2()


def _single_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class InformationDistillation(nn.Module):
    """λ_1 L_r + λ_2 L_d of a teacher and a student, with the relation module that both share.

    Under distributed training the Gram matrices span the images of all processes, which must hold equally many;
    with gradients averaged over the processes, as DistributedDataParallel does, they are those of one process with
    all the images.

    Args:
        dim: channels D of the image embedding and of the mask token.
        compression_weight: λ_1.
        distillation_weight: λ_2.
    """

    def __init__(self, dim: int, compression_weight: float = 1.0, distillation_weight: float = 0.5) -> None:
        super().__init__()
        self.relation = RelationModule(dim)
        self.compression_weight = compression_weight
        self.distillation_weight = distillation_weight

    def forward(
        self,
        teacher_embedding: Tensor,
        teacher_mask_token: Tensor,
        student_embedding: Tensor,
        student_mask_token: Tensor,
    ) -> Tensor:
        """The loss, a scalar, from embeddings (B, D, h, w) and mask tokens (B, 1, D); the teacher gets no gradient.

        Raises:
            InputError: when the batch holds one image, over all processes.
        """
        with torch.autocast(teacher_embedding.device.type, enabled=False):
            teacher = self._tokens(teacher_embedding.detach()), self._tokens(teacher_mask_token.detach())
            student = self._tokens(student_embedding), self._tokens(student_mask_token)
            teacher_relation = self.relation(*teacher)
            compression = compression_loss(*teacher, teacher_relation)
            distillation = distillation_loss(teacher_relation, self.relation(*student))
        return self.compression_weight * compression + self.distillation_weight * distillation

    def _tokens(self, features: Tensor) -> Tensor:
        """An embedding (B, D, h, w) as tokens (B, hw, D), tokens as they are; of all processes, in full precision."""
        tokens = features.flatten(2).mT if features.ndim == 4 else features
        return _gather_batch(tokens.to(self.relation.query_proj.weight.dtype))


def _gather_batch(tensor: Tensor) -> Tensor:
    """The batches of all processes in one, with gradients."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    from torch.distributed.nn.functional import all_gather  # builds of torch without distributed lack it

    return torch.cat(all_gather(tensor.contiguous()))


class StructureLoss(nn.Module):
    """Boundary-weighted binary cross entropy plus boundary-weighted IoU, with p = sigmoid(logits).

        w     = 1 + 5 |avgpool_31(y) - y|
        L_bce = Σ w bce / Σ w
        L_iou = 1 - (Σ w p y + 1) / (Σ w (p + y) - Σ w p y + 1)

    The sums run over the pixels of one channel of one image. Each channel counts as an image of its own, and the
    loss is the mean of L_bce + L_iou over images and channels.

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
            InputError: when the shapes differ.
        """
        logits, labels = (maps.unsqueeze(1) if maps.ndim == 3 else maps for maps in (logits, labels))
        if logits.shape != labels.shape:
            raise InputError(
                f"the structure loss got logits {tuple(logits.shape)} and labels {tuple(labels.shape)}: "
                "give one label map per channel, of the size of the logits."
            )
        logits = _single_precision(logits)
        labels = labels.to(logits.dtype)
        weights = boundary_weights(labels)
        bce_weights = weights if self.weighted_bce else torch.ones_like(weights)
        return (weighted_cross_entropy(logits, labels, bce_weights) + weighted_iou_loss(logits, labels, weights)).mean()


def boundary_weights(labels: Tensor) -> Tensor:
    """w = 1 + 5 |avgpool_31(y) - y| of labels y (B, C, H, W): large near a border; zeros outside count in the mean."""
    rows = F.avg_pool2d(labels, (31, 1), stride=1, padding=(15, 0))
    mean = F.avg_pool2d(rows, (1, 31), stride=1, padding=(0, 15))  # two passes: 62 additions a pixel instead of 961
    return 1 + 5 * (mean - labels).abs()


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Σ w bce / Σ w, (B, C, H, W) -> (B, C)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (weights * cross_entropy).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))


def weighted_iou_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """1 - (Σ w p y + 1) / (Σ w (p + y) - Σ w p y + 1), (B, C, H, W) -> (B, C)."""
    probabilities = logits.sigmoid()
    intersection = (weights * probabilities * labels).sum(dim=(2, 3))
    total = (weights * (probabilities + labels)).sum(dim=(2, 3))
    return 1 - (intersection + 1) / (total - intersection + 1)
