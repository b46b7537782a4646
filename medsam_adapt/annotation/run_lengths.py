"""Slices of labels as run lengths, which is how they travel between the page and the server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def to_run_lengths(values: np.ndarray) -> list[int]:
    """``[value, count, value, count, ...]`` of a slice (rows, columns), read row by row."""
    flat = np.asarray(values).ravel().astype(np.int64)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    counts = np.diff(np.append(starts, flat.size))
    return np.stack([flat[starts], counts], axis=1).ravel().tolist()


def from_run_lengths(runs: Sequence[int], shape: tuple[int, int], allowed: Sequence[int]) -> np.ndarray:
    """The slice (rows, columns) uint8 of run lengths.

    Args:
        runs: as `to_run_lengths` gives them.
        shape: of the slice.
        allowed: the values that it may hold.

    Raises:
        ValueError: runs that do not fill the slice exactly, or a value that is not allowed.
    """
    if len(runs) == 0 or len(runs) % 2 or len(runs) > 2 * shape[0] * shape[1]:
        raise ValueError("run lengths are pairs of a value and a count")
    pairs = np.array(runs, dtype=np.int64).reshape(-1, 2)
    values, counts = pairs[:, 0], pairs[:, 1]
    if (counts < 1).any() or (counts > shape[0] * shape[1]).any() or int(counts.sum()) != shape[0] * shape[1]:
        raise ValueError(f"the run lengths do not fill a slice of {shape[0]} × {shape[1]} pixels")
    if not np.isin(values, list(allowed)).all():
        raise ValueError("the run lengths hold a label that is no class")
    return np.repeat(values.astype(np.uint8), counts).reshape(shape)
