"""One call from settings to a segmenter that is ready to train or to load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from medsam_adapt.config import InputScaling, Precision
from medsam_adapt.core.distributed import unwrap
from medsam_adapt.core.precision import run_as
from medsam_adapt.networks.adapter import Adapter
from medsam_adapt.networks.image_channels import COLOURS, mix_images
from medsam_adapt.networks.parameters import attach_adapter, trainable_tensors
from medsam_adapt.networks.sam import build_sam
from medsam_adapt.networks.segmenter import Head, Segmenter
from medsam_adapt.weights.backbones import encoder_is_tuned
from medsam_adapt.weights.input_scaling import choose_input_scaling
from medsam_adapt.weights.store import resolve

_PROMPT = "sam.prompt_encoder.no_mask_embed.weight"


def build_segmenter(
    variant: str,
    image_size: int,
    num_classes: int,
    adapter: Adapter,
    prompt: str = "none",
    checkpoint: str | Path | None = None,
    learn_prompt: bool = False,
    tune_encoder: bool | None = None,
    overlapping: bool = False,
    seed: int = 0,
    precision: Precision = "fp32",
    low_memory: bool = False,
    slices_at_once: int | None = None,
    detail: int = 0,
    input_scaling: InputScaling | None = None,
    kernels: bool = True,
    images: int = 0,
    coordinates: bool = False,
) -> Segmenter:
    """A SAM with its adapter and the head that the task needs, everything but the trained tensors frozen.

    Args:
        variant: a name of :data:`medsam_adapt.weights.backbones.VARIANTS`, such as ``vit_nano``.
        image_size: side of the square input in pixels.
        num_classes: C; not used with a prompt, where one structure is drawn at a time.
        adapter: what is attached.
        prompt: ``none`` for C classes at once; ``box`` or ``points`` for the structure prompted.
        checkpoint: weights to start from: a name, a file or ``random``; when None, those that ship with the package
            for this backbone, else random ones.
        learn_prompt: also train the dense prompt embedding (BLO-SAM).
        tune_encoder: also train the whole image encoder; when None, if it is small or has no pretrained weights.
        overlapping: whether classes may overlap.
        seed: of all random weights; the global random state is left as it was.
        precision: of the image encoder, as for :class:`medsam_adapt.core.precision.Running`; ``auto`` is ``fp32``
            where the whole image encoder is trained.
        low_memory: whether the image encoder keeps less for the gradient, and computes it again.
        slices_at_once: of a batch, as for :class:`Segmenter`.
        detail: channels of a branch that refines the masks, as for :func:`attach_adapter`; 0 adds none.
        input_scaling: pixel values that the weights expect, as for :func:`build_sam`.
        kernels: as for :func:`build_sam`.
        images: of a case that are seen together, as for :func:`attach_adapter`.
        coordinates: as for :func:`attach_adapter`.

    Raises:
        InputError: as :func:`build_sam`.
    """
    input_scaling = choose_input_scaling(input_scaling, checkpoint, variant)
    checkpoint = resolve(checkpoint, variant)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prompted = prompt != "none"
        classes = None if prompted else num_classes
        sam = build_sam(variant, image_size, classes, checkpoint, not overlapping, input_scaling, kernels)
        head: Head = "structure" if prompted else "overlapping" if overlapping else "exclusive"
        tuned = encoder_is_tuned(tune_encoder, variant, checkpoint is not None)
        # Small steps, and BLO-SAM's smaller finite differences, are lost where all weights are rounded to bf16.
        run_as(sam.image_encoder, "fp32" if tuned and precision == "auto" else precision, low_memory)
        segmenter = Segmenter(sam, head, slices_at_once)
        return attach_adapter(segmenter, adapter, learn_prompt, tuned, detail, images, coordinates)


def build_teacher(
    variant: str,
    image_size: int,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    input_scaling: InputScaling | None = None,
    kernels: bool = True,
    images: int = 0,
) -> Segmenter:
    """SAM itself, frozen and in evaluation mode, for the one structure that a prompt points at.

    With the same arguments it holds the weights from which :func:`build_segmenter` starts, random ones too.

    Args:
        variant: a name of :data:`medsam_adapt.weights.backbones.VARIANTS`, such as ``vit_nano``.
        image_size: side of the square input in pixels.
        checkpoint: its weights, as for :func:`build_segmenter`.
        seed: of the random weights; the global random state is left as it was.
        precision: of the image encoder, as for :func:`build_segmenter`.
        input_scaling: that of the images, which is the student's.
        kernels: as for :func:`build_sam`.
        images: of a case that are seen together; SAM itself sees the first three.

    Raises:
        InputError: as :func:`build_sam`.
    """
    input_scaling = choose_input_scaling(input_scaling, checkpoint, variant)
    checkpoint = resolve(checkpoint, variant)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = build_sam(variant, image_size, checkpoint=checkpoint, input_scaling=input_scaling, kernels=kernels)
    run_as(sam.image_encoder, precision)
    if images > COLOURS:
        mix_images(sam, images)
    return Segmenter(sam, "structure").requires_grad_(False).eval()


def model_weights(network: nn.Module) -> list[nn.Parameter]:
    """The trained tensors of a segmenter, bare or wrapped, but for the prompt embedding: BLO-SAM's W."""
    return [tensor for name, tensor in trainable_tensors(unwrap(network)).items() if name != _PROMPT]


def branch_and_sam(network: nn.Module, learning_rate: float, sam_factor: float) -> list[dict[str, Any]]:
    """Parameter groups: the detail branch, which starts anew, and what is trained of SAM, with a lower rate.

    Args:
        network: a segmenter with a detail branch, bare or wrapped.
        learning_rate: of the branch.
        sam_factor: by which that is multiplied for SAM's own weights.
    """
    trained = trainable_tensors(unwrap(network))
    branch = [tensor for name, tensor in trained.items() if name.startswith("sam.detail.")]
    own = [tensor for name, tensor in trained.items() if not name.startswith("sam.detail.")]
    return [{"params": branch, "lr": learning_rate}, {"params": own, "lr": sam_factor * learning_rate}]


def prompt_embedding(network: nn.Module) -> nn.Parameter:
    """SAM's dense ``no_mask_embed`` (1, D) of a segmenter, bare or wrapped: BLO-SAM's A."""
    return unwrap(network).get_parameter(_PROMPT)
