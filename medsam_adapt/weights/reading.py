"""Files of SAM weights, read as named tensors; nothing in them is run."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medsam_adapt.core.errors import InputError
from medsam_adapt.weights.backbones import VARIANTS, Variant
from medsam_adapt.weights.sam2_names import as_ours

# MobileSAM's file has the classifier of its encoder's pretraining; some files have tables that follow from sizes.
_UNUSED = re.compile(r"image_encoder\.(norm_head|head)\.|.*\.attn\.(attention_bias_idxs|ab)$")
_NESTING = ("model", "state_dict", "model_state_dict")  # where training files keep the weights
# What torch and safetensors raise on damaged files, found by damaging them.
_DAMAGE = (
    *(SafetensorError, RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, AssertionError, MemoryError),
)


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
    weights = as_ours(weights)
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
    if "image_encoder.patch_embed.pos_embed_window" in weights:
        sizes, encoder = (8 * patch_embed.shape[0], len(blocks), 16), "hiera"
    else:
        sizes, encoder = (patch_embed.shape[0], len(blocks), patch_embed.shape[-1]), "vit"
    fitting = (each for each in VARIANTS.values() if each.encoder == encoder)
    return next((each for each in fitting if (each.embed_dim, each.depth, each.patch_size) == sizes), None)
