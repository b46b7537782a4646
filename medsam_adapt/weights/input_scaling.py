"""Which input scaling the weights behind a checkpoint setting were trained with."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from medsam_adapt.config import InputScaling
from medsam_adapt.core.files import file_sha256
from medsam_adapt.weights.backbones import get_variant
from medsam_adapt.weights.registry import WEIGHTS, Weights
from medsam_adapt.weights.store import resolve


def choose_input_scaling(wanted: InputScaling | None, checkpoint: str | Path | None, backbone: str) -> InputScaling:
    """The input scaling of a network: as wanted, else that of the weights, else the usual one of the backbone.

    Args:
        wanted: by the user; None leaves it to the weights.
        checkpoint: as for :func:`medsam_adapt.weights.resolve`; registered weights are recognised by name, and their
            files by SHA-256, wherever they lie and whatever they are called.
        backbone: the variant that is built.

    Raises:
        InputError: weights that are not on this machine or belong to another backbone, or neither name nor file.
    """
    if wanted is not None:
        return wanted
    known = WEIGHTS.get(str(checkpoint))
    path = resolve(checkpoint, backbone)
    if known is None and path is not None:
        known = registered(path)
    return get_variant(backbone).input_scaling if known is None else known.input_scaling


def registered(path: str | Path) -> Weights | None:
    """The registered weights that a file holds, by its SHA-256; None for others."""
    status = Path(path).stat()
    return _registered(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _registered(path: str, size: int, _changed: int) -> Weights | None:
    """As :func:`registered`; a file is read once, and only if its size is that of registered weights."""
    fitting = [weights for weights in WEIGHTS.values() if weights.sha256 and weights.size in (None, size)]
    sha256 = file_sha256(Path(path)) if fitting else ""
    return next((weights for weights in fitting if weights.sha256 == sha256), None)
