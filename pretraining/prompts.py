"""Prompts as SAM is trained with: a box, exact or shaken, or one to eight clicks of which some are outside."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medsam_adapt.data.prompts.simulated import MAX_POINTS, jittered_box, points_inside, tight_box

_PADDING_POINT = (0.0, 0.0, -1.0)


def exact_box(mask: np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1 in pixels (float32), the tight box around a part, which is never empty."""
    box = tight_box(mask)
    assert box is not None
    return box


def draw_box(mask: np.ndarray, tight: float, rng: np.random.RandomState) -> np.ndarray:
    """x0, y0, x1, y1 in pixels (float32): a share ``tight`` is exact, of the others three in ten are grown (as in
    fine-tuning) and the rest shaken by a tenth of their sides.
    """
    kind, size = rng.random_sample(), mask.shape[-1]
    box = exact_box(mask)
    if kind < tight:
        return box
    if kind < tight + 0.3 * (1 - tight):
        return jittered_box(mask, size, rng)
    sides = np.tile(box[2:] - box[:2] + 1, 2)
    shaken = box + np.clip(rng.normal(size=4) * 0.1 * sides, -10, 10)
    return np.clip(shaken, 0, size - 1).astype(np.float32)


def draw_points(mask: np.ndarray, longest: int, rng: np.random.RandomState) -> np.ndarray:
    """x, y, label (longest, 3): the first click inside, of the others a quarter outside; unused ones have label -1."""
    points = points_inside(mask, longest, rng)
    ring = ndimage.binary_dilation(mask, iterations=8) & ~ndimage.binary_dilation(mask)
    rows, columns = np.nonzero(ring)
    if rows.size:
        for index in 1 + np.flatnonzero(rng.random_sample(longest - 1) < 0.25):
            spot = rng.randint(rows.size)
            points[index] = columns[spot], rows[spot], 0
    points[rng.randint(1, longest + 1) :] = _PADDING_POINT
    return points


def draw_longest(rng: np.random.RandomState) -> int:
    """How many clicks a batch has at most: often one, the ambiguous case."""
    return 1 if rng.random_sample() < 0.4 else int(rng.randint(2, MAX_POINTS + 1))
