"""Loading of SAM checkpoints: the official and MedSAM key layouts, at another image size or number of masks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from medsam_adapt.core.errors import InputError
from medsam_adapt.weights.backbones import Variant
from medsam_adapt.weights.reading import detect_variant, read_weights

_MASK_MLP = re.compile(r"mask_decoder\.output_hypernetworks_mlps\.(\d+)\.(.+)")
_MASK_MLP_LAST = "layers.2."
_CALM = 0.1  # of SAM's logits, which are tens: certain of a mask without having been asked for one
_IOU_LAST = re.compile(r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.(weight|bias)")


def load_checkpoint(sam: Sam, path: str | Path, variant: Variant, class_masks: bool) -> None:
    """Load a checkpoint into ``sam`` in place, resized to its image size and number of mask tokens.

    Args:
        sam: the network, of the shape wanted.
        path: the checkpoint file.
        variant: the variant that ``sam`` was built as.
        class_masks: whether the mask tokens stand for classes, which start as in :func:`masks_for_classes`.

    Raises:
        InputError: a checkpoint of another variant, or with missing, unexpected or mis-shaped tensors.
    """
    weights = read_weights(path)
    expected = sam.state_dict()
    if not set(weights) & set(expected):
        raise InputError(f"{path}: this checkpoint has no tensor named as in SAM. Give a SAM or MedSAM weights file.")
    found = detect_variant(weights)
    if found is not None and found != variant:
        raise InputError(
            f"{path}: this checkpoint holds {found.name} weights but the backbone is {variant.name}. Use --backbone "
            f"{found.name}, or a {variant.name} checkpoint."
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
            f"{path}: this checkpoint does not fit this SAM, with tensors {'; '.join(faults)}. Give a checkpoint of "
            "the same backbone."
        )
