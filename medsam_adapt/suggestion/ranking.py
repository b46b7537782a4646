"""The order of scans: each pick is uncertain, disputed between runs, and unlike all that is labelled or picked before.

The parts have no common unit, so that their ranks among the scans are averaged, not their values. Picking one scan
after the other with the distance to the earlier picks is the greedy k-centre selection of Sener and Savarese, "Active
Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

PARTS = ("uncertainty", "disagreement", "distance")


@dataclass(frozen=True)
class Pick:
    """A scan at its place in the order.

    Attributes:
        index: of the scan.
        score: mean of the parts' ranks among the scans not yet picked, 0 to 1.
        distance: to the nearest scan that is labelled or was picked before; None for the first where there is none.
    """

    index: int
    score: float
    distance: float | None


def pick_scans(parts: Mapping[str, np.ndarray], features: np.ndarray, known: np.ndarray, count: int) -> list[Pick]:
    """The first ``count`` scans in the order in which to label them.

    Args:
        parts: values of each scan (n,) by part, more meaning that a label is worth more; the distance not among them.
        features: of the scans, (n, D).
        known: features of scans with labels, (m, D); m may be 0: then the most typical scan is the first pick.
        count: how many; all where there are fewer.
    """
    scaled, labelled = standardised(features, known)
    nearest = _distances(scaled, labelled).min(axis=1, initial=np.inf)
    without_reference = not len(labelled)
    typical = -np.linalg.norm(scaled - scaled.mean(axis=0), axis=1)
    picks: list[Pick] = []
    left = list(range(len(scaled)))
    while left and len(picks) < count:
        far = typical if without_reference and not picks else nearest
        ranks = [_ranks(values[left]) for values in (*parts.values(), far)]
        scores = np.mean(ranks, axis=0)
        best = left[int(scores.argmax())]
        distance = float(nearest[best])
        picks.append(Pick(best, float(scores.max()), distance if np.isfinite(distance) else None))
        left.remove(best)
        nearest = np.minimum(nearest, _distances(scaled, scaled[best : best + 1])[:, 0])
    return picks


def standardised(features: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in units of the standard deviation of each feature over all scans; a constant feature becomes 0."""
    together = np.concatenate([features, known]).astype(np.float64)
    mean, deviation = together.mean(axis=0), together.std(axis=0)
    scaled = (together - mean) / np.where(deviation > 0, deviation, 1)
    return scaled[: len(features)], scaled[len(features) :]


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, m) root mean square differences between the rows of (n, D) and of (m, D)."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None] - 2 * first @ second.T
    return np.sqrt(squares.clip(min=0) / first.shape[1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 0 for the smallest to 1 for the largest; equal values share the mean of their ranks."""
    return (rankdata(values) - 1) / max(1, len(values) - 1)
