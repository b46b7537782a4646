"""Maps of numbers from 0 to 1 as bytes, 255 for 1: a quarter of the space, in steps of 0.004."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

LEVELS = 255


def to_bytes(share: Tensor) -> Tensor:
    """Numbers from 0 to 1 as uint8 of the same shape."""
    return (share * LEVELS).round().to(torch.uint8)


def map_on_disk(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """A uint8 array in a nameless file in ``folder``, which goes with the last view of the array, or the process."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)
