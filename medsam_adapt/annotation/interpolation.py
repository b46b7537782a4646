"""What lies between drawn slices: masks by their signed distances, boxes by their sides."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from medsam_adapt.data.prompts.simulated import SlicePrompt


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels to the border of a mask (rows, columns): positive inside, negative outside."""
    return ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)


def fill_between(masks: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Index and mask of every empty slice between two drawn ones.

    The mask is where the weighted mean of the two slices' signed distances is positive: shape-based interpolation
    (Raya and Udupa, IEEE TMI 1990).

    Args:
        masks: (N, rows, columns) bool.
    """
    drawn = np.flatnonzero(masks.any(axis=(1, 2))).tolist()
    for first, last in itertools.pairwise(drawn):
        if last - first < 2:
            continue
        before, after = signed_distance(masks[first]), signed_distance(masks[last])
        for index in range(first + 1, last):
            share = (index - first) / (last - first)
            yield index, (1 - share) * before + share * after > 0


def box_between(first: SlicePrompt, last: SlicePrompt, share: float, slack: float = 0.0) -> SlicePrompt:
    """The box at a share from 0 to 1 of the way from one slice's box to another's.

    Args:
        first: a box.
        last: another one.
        share: how far it is on the way from the first to the last.
        slack: by which each side lies further out, as a share of the box's width or height.
    """
    assert first.box is not None, "only boxes are interpolated"
    assert last.box is not None, "only boxes are interpolated"
    sides = [(1 - share) * a + share * b for a, b in zip(first.box, last.box, strict=True)]
    across, down = slack * (sides[2] - sides[0]), slack * (sides[3] - sides[1])
    return SlicePrompt(box=(sides[0] - across, sides[1] - down, sides[2] + across, sides[3] + down))
