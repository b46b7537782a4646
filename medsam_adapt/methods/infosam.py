"""InfoSAM (arXiv 2505.21920, ICML 2025): distil what relates an image to its mask from SAM to its adapted copy.

The teacher is the frozen SAM, the student SAM with an adapter; both see the same images and prompts. A relation
module f, one for both and trained with the student, turns the image embedding z_i and the mask decoder's output
token z_m into r = f(z_i, z_m). With G_x the Gram matrix of x over the batch, ∘ the Hadamard product, and H the
matrix-based Rényi entropy of order 2, two terms join the segmentation loss:

    L_r = H(G_f^T) - H(G_i ∘ G_m ∘ G_f^T)                 compression: r contains little of (z_i, z_m)
    L_d = H(G_f^T ∘ G_f^S) - H(G_f^T) - H(G_f^S)          distillation: minus the information that T and S share
    L   = L_seg + λ_1 L_r + λ_2 L_d

The paper's Eq. 11 and 13 write the products without dividing by their trace; the released code and we divide.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapt.core.distributed import average_gradients, gather_batch, world_size
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.update import Prepared, Update, prepared
from medsam_adapt.data.volumes.label_coding import IGNORED
from medsam_adapt.methods.losses import SegmentationLoss, StructureLoss
from medsam_adapt.networks.sam2 import split_embedding
from medsam_adapt.networks.segmenter import Head, Segmenter

if TYPE_CHECKING:
    from monai.data import DataLoader  # slow to import

__all__ = [
    "DistillationUpdate",
    "InformationDistillation",
    "RelationModule",
    "StructureLoss",
    "compression_loss",
    "distillation_loss",
    "infosam_loss",
]
_TOO_FEW = "batch_size: InfoSAM compares the images of a batch with each other. Use 2 or more"


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
        raise InputError(f"{_TOO_FEW}.")
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
        transfer: bool = True,
    ) -> Tensor:
        """The loss, a scalar, from embeddings (B, D, h, w) and mask tokens (B, 1, D); the teacher gets no gradient.

        Without ``transfer`` it is λ_1 L_r alone, of the teacher.

        Raises:
            InputError: when the batch holds one image, over all processes.
        """
        with torch.autocast(teacher_embedding.device.type, enabled=False):
            teacher = self._tokens(teacher_embedding.detach()), self._tokens(teacher_mask_token.detach())
            teacher_relation = self.relation(*teacher)
            loss = self.compression_weight * compression_loss(*teacher, teacher_relation)
            if transfer:
                student_relation = self.relation(self._tokens(student_embedding), self._tokens(student_mask_token))
                loss = loss + self.distillation_weight * distillation_loss(teacher_relation, student_relation)
        return loss

    def _tokens(self, features: Tensor) -> Tensor:
        """An embedding (B, D, h, w) as tokens (B, hw, D), tokens as they are; of all processes, in full precision."""
        tokens = features.flatten(2).mT if features.ndim == 4 else features
        return gather_batch(tokens.to(self.relation.query_proj.weight.dtype))


def infosam_loss(head: Head, weighted_bce: bool = True, balance: float = 0.0) -> nn.Module:
    """L_seg for a segmenter's head: the structure loss of the paper, whose masks are of single structures.

    Classes that exclude each other, which the paper does not have, get cross-entropy and Dice instead (ours): the
    structure loss of each class against the rest learned much more slowly.

    Args:
        head: of the segmenter.
        weighted_bce: as for :class:`StructureLoss`.
        balance: as for :class:`SegmentationLoss`.

    Raises:
        InputError: ``balance`` where the structure loss is used, whose weights are fixed.
    """
    if head == "exclusive":
        return SegmentationLoss(head, balance=balance)
    if balance:
        raise InputError("balance: InfoSAM's structure loss has weights that are fixed. Leave balance out.")
    return StructureLoss(weighted_bce)


class DistillationUpdate(Update):
    """One training step of InfoSAM, as ``iteration_update`` of MONAI's ``SupervisedTrainer``.

    The trainer's network is the student, with any adapter; its loss function gives L_seg; its optimiser also holds
    the parameters of ``distillation``. With a prompt, teacher and student get the same one, and z_m is SAM's first
    mask token. Without a prompt (ours, the paper always has one) the student's z_m is the mean of the mask tokens of
    its classes, background left out, and the teacher is prompted with the tight box around all structures; where
    there is none it has no prompt either.

    Args:
        teacher: the frozen SAM, from :func:`medsam_adapt.networks.build_teacher`.
        distillation: the relation module and its two terms.
        loader: of the training batches.
        relation_warmup_epochs: epochs in which the relation module learns from the teacher before L_d begins.

    Raises:
        InputError: when the loader's batches hold one image, over all processes.
    """

    def __init__(
        self,
        teacher: Segmenter,
        distillation: InformationDistillation,
        loader: DataLoader,
        relation_warmup_epochs: int = 0,
    ) -> None:
        slices, batch_size = len(loader.dataset), loader.batch_size or 1  # type: ignore[arg-type]
        if min(batch_size * world_size(), slices) < 2:
            given = f"there is {slices} training slice" if slices < batch_size else f"batch_size is {batch_size}"
            raise InputError(f"{_TOO_FEW} ({given}).")
        self.teacher = teacher
        self.distillation = distillation
        self.relation_warmup_epochs = relation_warmup_epochs

    def inputs(self, engine: Any, batch: Any) -> tuple[Prepared, bool]:
        return prepared(engine, batch), engine.state.epoch > self.relation_warmup_epochs

    def step(self, engine: Any, inputs: tuple[Prepared, bool]) -> Tensor:
        (image, label, args, kwargs), transfer = inputs
        kwargs = dict(kwargs)
        teacher_embedding = kwargs.pop("teacher_embedding", None)
        engine.network.train()
        engine.optimizer.zero_grad()
        student = engine.inferer(image, engine.network, *args, **kwargs, full=True)
        head = getattr(engine.network, "module", engine.network).head
        prompts: dict[str, Tensor] = {name: kwargs[name] for name in ("boxes", "points") if name in kwargs}
        loss: Tensor = engine.loss_function(student.logits, label) + self.distillation(
            *self.ask_teacher(image, label, prompts, teacher_embedding, head),
            student.image_embedding,
            student_token(student.mask_tokens, head),
            transfer=transfer,
        )
        loss.backward()
        average_gradients(self.distillation.parameters())
        engine.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def ask_teacher(
        self,
        image: Tensor | None,
        label: Tensor,
        prompts: dict[str, Tensor],
        embedding: Tensor | None = None,
        head: Head = "exclusive",
    ) -> tuple[Tensor, Tensor]:
        """The teacher's embedding (B, D, h, w) and first mask token (B, 1, D), on the same images and prompts.

        An ``embedding`` that the teacher gave before is not computed again. Without a prompt it gets the box around all
        structures of the ``label``, which is as the loss takes it for the student's ``head``.
        """
        encoded = self.teacher.encode(image) if embedding is None else embedding
        embedding, _ = split_embedding(self.teacher.sam.image_encoder, encoded)
        if prompts:
            return embedding, self._token(encoded, **prompts)
        boxes, found = tight_boxes(known_structures(label, head))
        if not _answers_at_once(embedding):  # to ask which images have a box would take longer than both of all
            both = self._token(encoded, boxes=boxes), self._token(encoded)
            return embedding, torch.where(found[:, None, None], *both)
        tokens = embedding.new_empty(len(embedding), 1, embedding.shape[1])
        for chosen, prompt in ((found, boxes[found]), (~found, None)):
            if chosen.any():
                tokens[chosen] = self._token(encoded[chosen], boxes=prompt)
        return embedding, tokens

    def _token(self, encoded: Tensor, **prompts: Tensor | None) -> Tensor:
        """The teacher's first mask token (B, 1, D)."""
        return self.teacher.decode(encoded, **prompts, upsample=False).mask_tokens[:, :1]


def _answers_at_once(tensor: Tensor) -> bool:
    """Whether its values are available: on a CPU; on a GPU the step would have to wait."""
    return tensor.device.type == "cpu"


def student_token(mask_tokens: Tensor, head: Head) -> Tensor:
    """z_m (B, 1, D) of a student's mask tokens (B, T, D): the prompted structure's, or the mean of its classes'."""
    if head == "structure":
        return mask_tokens[:, :1]
    return mask_tokens[:, int(head == "exclusive") :].mean(dim=1, keepdim=True)


def known_structures(label: Tensor, head: Head) -> Tensor:
    """(B, H, W) bool, where a label (B, C', H, W) has any structure for certain.

    Where classes were not annotated, the label of an ``exclusive`` head is what each pixel may be, background first.
    """
    if head == "exclusive" and label.shape[1] > 1:
        return label[:, 0] == 0
    return ((label > 0) & (label != IGNORED)).any(dim=1)


def tight_boxes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """x0, y0, x1, y1 (first and last pixel) around each of the masks (B, H, W): (B, 4), and whether it has any (B,)."""
    sides = []
    for inside in (masks.any(dim=1), masks.any(dim=2)):  # columns, rows
        line = inside.float()
        sides.append((line.argmax(dim=1), line.shape[1] - 1 - line.flip(1).argmax(dim=1)))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=1).float(), masks.flatten(1).any(dim=1)
