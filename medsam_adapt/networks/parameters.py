"""The parameters of a segmenter: which are trained, how many they are, and how they alone are saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import write_json, written_whole
from medsam_adapt.data.slices.slicing_spec import COORDINATES
from medsam_adapt.networks.adapter import UNREACHED, Adapter
from medsam_adapt.networks.adapter_config import CONFIG_FILE, read_adapter_config
from medsam_adapt.networks.detail import DetailBranch
from medsam_adapt.networks.encoder_stages import frozen_stages
from medsam_adapt.networks.image_channels import COLOURS, images_of, mix_images
from medsam_adapt.networks.sam import weights_sha256
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.networks.tiny_vit import freeze_norms

WEIGHTS_FILE = "adapter_model.safetensors"


def freeze_unreachable(segmenter: Segmenter) -> None:
    """Freeze the tensors that no loss can reach: heads that judge masks, and the hypernetworks of unused masks."""
    decoder = segmenter.sam.mask_decoder
    for name, parameter in decoder.named_parameters():
        if name.startswith(UNREACHED):
            parameter.requires_grad_(False)
    for unused in decoder.output_hypernetworks_mlps[segmenter.out_channels :]:
        unused.requires_grad_(False)


def attach_adapter(
    segmenter: Segmenter,
    adapter: Adapter,
    learn_prompt: bool = False,
    tune_encoder: bool = False,
    detail: int = 0,
    images: int = 0,
    coordinates: bool = False,
) -> Segmenter:
    """Freeze the segmenter, attach the adapter, and remember which base weights it belongs to.

    Args:
        segmenter: changed in place and returned.
        adapter: what to attach.
        learn_prompt: also train SAM's dense ``no_mask_embed``, BLO-SAM's learnable prompt.
        tune_encoder: also train the whole image encoder, for a backbone without pretrained weights.
        detail: channels of a :class:`DetailBranch` that is added and trained; 0 adds none.
        images: how many images of a case are seen together; more than three are mixed by weights that are trained.
        coordinates: whether the branch also sees where pixels lie in the volume, as CoordConv (Liu et al., NeurIPS
            2018): images then have three more channels, which SAM does not see.
    """
    segmenter.base_sha256 = weights_sha256(segmenter.sam)
    segmenter.requires_grad_(False)
    if tune_encoder:
        segmenter.sam.image_encoder.requires_grad_(True)
        freeze_norms(segmenter.sam.image_encoder)
    segmenter.tuned_encoder = tune_encoder
    if images > COLOURS:
        mix_images(segmenter.sam, images)
    adapter.attach(segmenter.sam)
    if detail:
        segmenter.sam.detail = DetailBranch(
            segmenter.out_channels,
            segmenter.sam.prompt_encoder.embed_dim,
            detail,
            colours=images_of(segmenter.sam) + (len(COORDINATES) if coordinates else 0),
        )
    segmenter.sam.train(segmenter.sam.training)  # torch builds the adapter's layers in training mode, dropout on
    freeze_unreachable(segmenter)
    segmenter.sam.prompt_encoder.no_mask_embed.requires_grad_(learn_prompt)
    segmenter.adapter = adapter
    segmenter.frozen_stages = frozen_stages(segmenter.sam.image_encoder)
    return segmenter


def trainable_tensors(module: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name; a parameter that several layers share appears once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def count_trainable(module: nn.Module, *beside: nn.Module) -> dict[str, int]:
    """Number of trainable values in SAM's ``encoder``, its mask ``decoder``, anything ``other``, and in ``total``.

    Modules that are trained ``beside`` the network, such as InfoSAM's relation module, count as other.
    """
    counts = {"encoder": 0, "decoder": 0, "other": 0}
    for name, parameter in trainable_tensors(module).items():
        part = "encoder" if "image_encoder." in name else "decoder" if "mask_decoder." in name else "other"
        counts[part] += parameter.numel()
    counts["other"] += sum(tensor.numel() for other in beside for tensor in trainable_tensors(other).values())
    return {**counts, "total": sum(counts.values())}


def save_adapter(segmenter: Segmenter, folder: str | Path) -> None:
    """Write every trained tensor, and only those, to ``folder`` as ``adapter_model.safetensors`` with its settings."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trainable_tensors(segmenter).items()}
    with written_whole(folder / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(save(tensors))  # its own writer does not distinguish a full disk from other errors
    adapter = _attached(segmenter)
    config = {
        "adapter": f"{type(adapter).__module__}.{type(adapter).__qualname__}",
        "settings": adapter.settings(),
        "base_sha256": segmenter.base_sha256,
        "input_scaling": segmenter.input_scaling,
        "trainable": count_trainable(segmenter),
    }
    write_json(folder / CONFIG_FILE, config)


def _attached(segmenter: Segmenter) -> Adapter:
    if segmenter.adapter is None:
        raise InputError("adapter: this network has none. Attach one before its tensors are saved or loaded.")
    return segmenter.adapter


def load_adapter(segmenter: Segmenter, folder: str | Path) -> Segmenter:
    """Load what :func:`save_adapter` wrote into a segmenter with the same adapter attached; returns it.

    Raises:
        InputError: unreadable files, another base SAM, another adapter or other settings, or tensors that differ in
            name or shape. No key is dropped silently.
    """
    folder = Path(folder)
    config = read_adapter_config(folder)
    settings = (config.adapter, config.settings)
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            f"{folder}: this adapter is missing or damaged ({error}). Copy the whole folder again."
        ) from error
    if config.base_sha256 != segmenter.base_sha256:
        raise InputError(
            f"{folder}: this adapter was trained on other SAM weights. Give the checkpoint it was trained from."
        )
    if config.input_scaling != segmenter.input_scaling:
        raise InputError(
            f"{folder}: this adapter was trained with input_scaling {config.input_scaling}, but this network was built "
            f"with {segmenter.input_scaling}. Build it with the adapter's input_scaling."
        )
    own = _attached(segmenter)
    own_settings = (f"{type(own).__module__}.{type(own).__qualname__}", json.loads(json.dumps(own.settings())))
    if settings != own_settings:
        raise InputError(
            f"{folder}: this adapter is {settings[0]} {settings[1]}, but {own_settings[0]} {own_settings[1]} is "
            "attached. Attach an adapter of the same kind and settings."
        )
    expected = trainable_tensors(segmenter)
    differing = sorted(set(tensors) ^ set(expected)) or [
        name for name in expected if tensors[name].shape != expected[name].shape
    ]
    if differing:
        raise InputError(
            f"{folder}: this adapter and the network differ in {', '.join(differing[:3])}. Use the same settings."
        )
    segmenter.load_state_dict(tensors, strict=False)  # names were compared above; frozen ones are not in the file
    return segmenter
