"""A training step of each method as the code of its authors does the work: the baseline of training_step.py.

segment-anything's own attention; whatever is frozen is computed in every step. Weights, adapters and losses are those
of this package, which computes the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from medsam_adapt.methods import InformationDistillation, SegmentationLoss
from medsam_adapt.methods.losses import weighted_iou_loss
from medsam_adapt.networks import Adapter, Segmenter, attach_adapter, model_weights, prompt_embedding
from medsam_adapt.networks.sam import build_sam, plain_encoder
from medsam_adapt.weights.backbones import get_variant

Step = Callable[[], Any]


def plain_segmenter(variant: str, size: int, adapter: Adapter, prompted: bool, learn_prompt: bool = False) -> Segmenter:
    """A segmenter with random weights and segment-anything's own image encoder."""
    sam = build_sam(variant, size, None if prompted else 1)
    encoder = plain_encoder(get_variant(variant), size)
    encoder.load_state_dict(sam.image_encoder.state_dict())
    sam.image_encoder = encoder
    return attach_adapter(Segmenter(sam, "structure" if prompted else "exclusive"), adapter, learn_prompt)


def plain_step(segmenter: Segmenter, image: Tensor, label: Tensor, boxes: Tensor) -> Step:
    """One forward and backward pass through the whole network, for SAM-PARSER, SAM-COBOT and the plain adapters."""
    optimizer = torch.optim.Adam(model_weights(segmenter), lr=1e-6)
    loss_function = SegmentationLoss(segmenter.head)

    def step() -> None:
        optimizer.zero_grad()
        loss_function(segmenter(image, boxes, low_res=True), label).backward()
        optimizer.step()

    return step


def infosam_step(
    student: Segmenter,
    teacher: Segmenter,
    distillation: InformationDistillation,
    image: Tensor,
    label: Tensor,
    boxes: Tensor,
) -> Step:
    """Teacher and student in every step, and the weights of the structure loss by a pooling of 31 x 31."""
    optimizer = torch.optim.Adam([*model_weights(student), *distillation.parameters()], lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            asked = teacher.predict(image, boxes)
        found = student.predict(image, boxes)
        loss = _structure_loss(found.logits, label.float()) + distillation(
            asked.image_embedding, asked.mask_tokens[:, :1], found.image_embedding, found.mask_tokens[:, :1]
        )
        loss.backward()
        optimizer.step()

    return step


def _structure_loss(logits: Tensor, label: Tensor) -> Tensor:
    weights = 1 + 5 * (F.avg_pool2d(label, 31, stride=1, padding=15) - label).abs()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, label)  # averaged before it is weighted, as released
    cross_entropy = (weights * cross_entropy).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))
    return (cross_entropy + weighted_iou_loss(logits, label, weights)).mean()


def blosam_step(segmenter: Segmenter, image: Tensor, label: Tensor, second_order: bool) -> Step:
    """The update of the weights, then of the prompt; the second half's loader is begun again in every step."""
    weights, prompt = model_weights(segmenter), prompt_embedding(segmenter)
    optimizer = torch.optim.AdamW(weights, lr=1e-6)
    prompt_optimizer = torch.optim.AdamW([prompt], lr=1e-6)
    loss_function = SegmentationLoss("exclusive", ce_weight=0.2, dice_weight=0.8)
    halves = [DataLoader(TensorDataset(image.repeat(8, 1, 1, 1), label.repeat(8, 1, 1, 1)), shuffle=True)] * 2
    first_half = _endless(halves[0])

    def loss(network: Segmenter, batch: tuple[Tensor, Tensor]) -> Tensor:
        return loss_function(network(batch[0], low_res=True), batch[1])

    def step() -> None:
        first = next(first_half)
        optimizer.zero_grad()
        loss(segmenter, first).backward()
        optimizer.step()
        second = next(iter(halves[1]))
        gradient = _unrolled if second_order else _direct
        prompt.grad = gradient(segmenter, lambda network: loss(network, first), lambda network: loss(network, second))
        prompt_optimizer.step()

    return step


Loss = Callable[[Segmenter], Tensor]


def _direct(segmenter: Segmenter, _: Loss, loss_d2: Loss) -> Tensor:
    return torch.autograd.grad(loss_d2(segmenter), prompt_embedding(segmenter))[0]


def _unrolled(segmenter: Segmenter, loss_d1: Loss, loss_d2: Loss, rate: float = 1e-6) -> Tensor:
    """The hypergradient through a copy of the network, with four more passes of the encoder."""
    weights = model_weights(segmenter)
    virtual = copy.deepcopy(segmenter)
    descent = torch.autograd.grad(loss_d1(segmenter), weights)
    with torch.no_grad():
        for weight, along in zip(model_weights(virtual), descent, strict=True):
            weight -= rate * along
    direct, *vector = torch.autograd.grad(loss_d2(virtual), [prompt_embedding(virtual), *model_weights(virtual)])
    epsilon = 0.01 / torch.cat([part.flatten() for part in vector]).norm()
    sides = []
    for scale in (epsilon, -2 * epsilon):
        with torch.no_grad():
            for weight, along in zip(weights, vector, strict=True):
                weight += scale * along
        sides.append(torch.autograd.grad(loss_d1(segmenter), prompt_embedding(segmenter))[0])
    with torch.no_grad():
        for weight, along in zip(weights, vector, strict=True):
            weight += epsilon * along
    return direct - rate * (sides[0] - sides[1]) / (2 * epsilon)


def _endless(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader
