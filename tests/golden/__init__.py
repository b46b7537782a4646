"""Reference figures computed with the papers' released code; README.md in this folder states how."""

from pathlib import Path

import numpy as np
import torch


def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file, by key."""
    with np.load(Path(__file__).parent / f"{name}.npz", allow_pickle=False) as figures:
        return dict(figures)


def tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """An array as an input of that precision, which collects a gradient."""
    return torch.tensor(array, dtype=dtype, requires_grad=True)


def error(values: dict[str, torch.Tensor], figures: dict[str, np.ndarray], prefix: str = "") -> float:
    """The largest max|a - b| / max|b| of the values against the figures of the same keys, in each precision stored."""
    pairs = [
        (value.detach().double().numpy(), figures[prefix + key + precision].astype(np.float64))
        for key, value in values.items()
        for precision in ("", "_f64")
        if precision == "" or prefix + key + precision in figures
    ]
    return max(np.abs(value - reference).max() / np.abs(reference).max() for value, reference in pairs)
