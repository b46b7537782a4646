"""Loading of SAM checkpoints: the official and MedSAM key layouts, at another image size or number of masks."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything.modeling import Sam
from torch import Tensor

from medsam_adapt.core.errors import InputError
from medsam_adapt.networks.variants import VARIANTS, Variant

_NESTING = ("model", "state_dict", "model_state_dict")  # where training files keep the weights
# MobileSAM's file has the classifier of its encoder's pretraining; some files have tables that follow from sizes.
_UNUSED = re.compile(r"image_encoder\.(norm_head|head)\.|.*\.attn\.(attention_bias_idxs|ab)$")
_MASK_MLP = re.compile(r"mask_decoder\.output_hypernetworks_mlps\.(\d+)\.(.+)")
_MASK_MLP_LAST = "layers.2."
# What torch and safetensors raise on damaged files, found by damaging them.
_DAMAGE = (
    *(SafetensorError, RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, AssertionError, MemoryError),
)
_CALM = 0.1  # of SAM's logits, which are tens: certain of a mask without having been asked for one
_IOU_LAST = re.compile(r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.(weight|bias)")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file (.safetensors, or a torch file opened with ``weights_only=True``).

    Raises:
        InputError: missing or empty file, a file that is no checkpoint, or one that would run code when opened.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist: give the path of a SAM or MedSAM weights file.")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} holds more than weights and was not opened, because that could run code: "
            "save its state_dict alone and give that file."
        ) from error
    except _DAMAGE as error:
        raise InputError(
            f"checkpoint {path} cannot be read as weights (is it complete?): download it again."
        ) from error
    for key in _NESTING:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise InputError(f"checkpoint {path} holds no named weights: give a SAM or MedSAM weights file.")
    named = {str(name).removeprefix("module."): value for name, value in content.items()}
    weights = {name: value for name, value in named.items() if isinstance(value, Tensor) and not _UNUSED.match(name)}
    for name, tensor in weights.items():
        if not _is_stored_whole(tensor):
            raise InputError(
                f"checkpoint {path} has the tensor {name[:80]!r} in a form that no SAM weights have, or larger "
                "than what the file holds: get the file from its source again."
            )
    return weights


def _load_torch(path: Path) -> Any:
    """A torch file, nothing in it run; torch's remarks on unusual files, which help no user, are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_stored_whole(tensor: Tensor) -> bool:
    """Whether the file holds every value: a tensor that repeats a few of them can claim any size."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype.is_complex:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def detect_variant(weights: Mapping[str, Tensor]) -> Variant | None:
    """The variant whose width and depth the weights have; None when it is none of ours."""
    stem = weights.get("image_encoder.patch_embed.seq.0.c.weight")
    if stem is not None and stem.ndim == 4:
        return VARIANTS["lite_medsam" if stem.shape[-1] == 1 else "mobile_sam"]
    patch_embed = weights.get("image_encoder.patch_embed.proj.weight")
    if patch_embed is None or patch_embed.ndim != 4:
        return None
    blocks = {name.split(".")[2] for name in weights if name.startswith("image_encoder.blocks.")}
    for variant in VARIANTS.values():
        if (variant.embed_dim, variant.depth, variant.patch_size) == (
            patch_embed.shape[0],
            len(blocks),
            patch_embed.shape[-1],
        ):
            return variant
    return None


def load_checkpoint(sam: Sam, path: str | Path, variant: Variant, class_masks: bool) -> None:
    """Load a checkpoint into ``sam`` in place, resized to its image size and number of mask tokens.

    Args:
        sam: the network, of the shape wanted.
        path: the checkpoint file.
        variant: the variant that ``sam`` was built as.
        class_masks: whether the mask tokens stand for classes, which start as :func:`masks_for_classes` says.

    Raises:
        InputError: a checkpoint of another variant, or with missing, unexpected or mis-shaped tensors.
    """
    weights = read_weights(path)
    expected = sam.state_dict()
    if not set(weights) & set(expected):
        raise InputError(f"checkpoint {path} has no tensor named as in SAM: give a SAM or MedSAM weights file.")
    found = detect_variant(weights)
    if found is not None and found != variant:
        raise InputError(
            f"checkpoint {path} holds {found.name} weights but the backbone is {variant.name}: "
            f"use --backbone {found.name}, or a {variant.name} checkpoint."
        )
    if class_masks:
        weights = masks_for_classes(weights, sam.mask_decoder.num_mask_tokens, _CALM)
    weights = resize_positions(weights, expected)
    _check_names_and_shapes(weights, expected, path)
    sam.load_state_dict(weights)


def masks_for_classes(weights: Mapping[str, Tensor], mask_tokens: int, scale: float = 1.0) -> dict[str, Tensor]:
    """A copy with a mask token per class: hypernetwork and quality output are those of mask token 0, tokens are new.

    With copies of token 0 all classes would draw the same mask, and the first steps of training would go into telling
    them apart. The tokens have its length and random directions, always the same ones: the weights that an adapter
    belongs to follow from the checkpoint alone. ``scale`` is that of the logits: below 1, training need not first
    unlearn what pretraining was certain of.
    """
    iou_layers = [int(match[1]) for name in weights if (match := _IOU_LAST.fullmatch(name))]
    repeated: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        mask_mlp, iou = _MASK_MLP.fullmatch(name), _IOU_LAST.fullmatch(name)
        if mask_mlp:
            if mask_mlp[1] == "0":
                factor = scale if mask_mlp[2].startswith(_MASK_MLP_LAST) else 1.0
                for index in range(mask_tokens):
                    repeated[f"mask_decoder.output_hypernetworks_mlps.{index}.{mask_mlp[2]}"] = factor * tensor
        elif name == "mask_decoder.mask_tokens.weight":
            fixed = torch.Generator("cpu").manual_seed(0)
            directions = torch.randn(mask_tokens, tensor.shape[1], generator=fixed, device="cpu")
            repeated[name] = directions.to(tensor) * tensor[0].square().mean().sqrt()
        elif iou and int(iou[1]) == max(iou_layers):
            repeated[name] = tensor[:1].repeat(mask_tokens, *[1] * (tensor.ndim - 1))
        else:
            repeated[name] = tensor
    return repeated


def resize_positions(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Interpolate position tables to the shapes in ``expected``.

    ``pos_embed`` (1, h, w, C) in two dimensions, bicubic without antialiasing; the relative tables (2h - 1, C) of
    global blocks in one, linearly. The tables of windowed blocks have the same shape at any image size.
    """
    resized = dict(weights)
    for name, tensor in weights.items():
        target = expected.get(name)
        if target is None or target.shape == tensor.shape or target.ndim != tensor.ndim:
            continue
        if name.endswith(".pos_embed") and tensor.shape[-1] == target.shape[-1]:
            channels_first = tensor.permute(0, 3, 1, 2).float()
            grid = F.interpolate(channels_first, target.shape[1:3], mode="bicubic", align_corners=False)
            resized[name] = grid.permute(0, 2, 3, 1).to(tensor.dtype)
        elif name.endswith((".rel_pos_h", ".rel_pos_w")) and tensor.shape[-1] == target.shape[-1]:
            table = F.interpolate(tensor.T[None].float(), target.shape[0], mode="linear", align_corners=False)
            resized[name] = table[0].T.to(tensor.dtype)
    return resized


def _check_names_and_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    misshaped = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    faults = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
        if names
    ]
    if faults:
        raise InputError(
            f"checkpoint {path} does not fit this SAM, with tensors {'; '.join(faults)}: "
            "give a checkpoint of the same backbone."
        )
