"""What the masks of a scan show without its label: how uncertain a run is, and how far several runs disagree."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

BORDER = 2  # voxels around the predicted foreground that count as its border
_MOST_UNCERTAIN = 0.01  # share of the voxels that is looked at where nothing was found
_LEVELS = 255  # of a map of uncertainty


def mean_entropy(uncertainty: np.ndarray, foreground: np.ndarray) -> float:
    """Mean entropy, 0 to 1, within the predicted foreground and its border of `BORDER` voxels.

    The background far from every structure is left out: it is large and certain in every scan. Where nothing was found
    the most uncertain hundredth of all voxels is taken, since a structure may have been missed.

    Args:
        uncertainty: (X, Y, Z) uint8, 255 for the largest possible entropy, as `Predictor.segment` gives it.
        foreground: (X, Y, Z) bool, the voxels of any class.
    """
    if foreground.any():
        region = ndimage.binary_dilation(foreground, ndimage.generate_binary_structure(3, 1), BORDER)
        return float(uncertainty[region].mean()) / _LEVELS
    values = np.sort(uncertainty, axis=None)
    return float(values[-max(1, round(_MOST_UNCERTAIN * values.size)) :].mean()) / _LEVELS


def disagreement(masks: Sequence[Sequence[np.ndarray]]) -> float | None:
    """One minus the DSC between the masks of two runs, as the mean over pairs of runs and over classes.

    Classes that neither run of a pair found are left out. None for a single run; 0 where no run found anything.

    Args:
        masks: for each run the mask (X, Y, Z) bool of each class.
    """
    if len(masks) < 2:
        return None
    differences = []
    for first, second in itertools.combinations(masks, 2):
        for ours, theirs in zip(first, second, strict=True):
            if voxels := int(ours.sum()) + int(theirs.sum()):
                differences.append(1 - 2 * int((ours & theirs).sum()) / voxels)
    return float(np.mean(differences)) if differences else 0.0
