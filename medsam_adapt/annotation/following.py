"""A structure from the slices on which a person has pointed at it to all others.

Between two such slices the box moves evenly from one to the other, a little larger than drawn. Beyond them the mask
just drawn gives the next slice's box, until it vanishes, jumps in size, or leaves the place of the last one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

import numpy as np

from medsam_adapt.annotation.drawing import box_of
from medsam_adapt.annotation.interpolation import box_between
from medsam_adapt.data.prompts.simulated import SlicePrompt

#: draws the mask (rows, columns) of a prompt on a slice
Draw = Callable[[int, SlicePrompt], np.ndarray]

# Structures bulge between two boxes, and a network that was trained with loose boxes loses less in a box that is too
# large than in one that cuts the structure off; chosen on development patients (benchmarks/scripted_annotator.py).
SLACK = 0.05
JUMP = 2.5  # a mask this many times larger or smaller than the last one is of something else
OVERLAP = 0.3  # of the smaller of two neighbouring masks that must lie within the other


def follow(
    draw: Draw, keys: Mapping[int, SlicePrompt], reach: range, empty: Container[int] = ()
) -> Iterator[tuple[int, np.ndarray]]:
    """Index and mask (rows, columns) of slices without a box, in the order in which they are drawn.

    Args:
        draw: draws the mask of a prompt on a slice.
        keys: slice -> box, at least one.
        reach: the slices that may be drawn on.
        empty: slices that do not show the structure, behind which it is not followed.
    """
    order = sorted(keys)
    for first, last in itertools.pairwise(order):
        for index in range(first + 1, last):
            if index in reach and index not in empty:
                share = (index - first) / (last - first)
                yield index, draw(index, box_between(keys[first], keys[last], share, SLACK))
    up, down = range(order[-1] + 1, reach.stop), range(order[0] - 1, reach.start - 1, -1)
    for start, ahead in ((order[-1], up), (order[0], down)):
        before = list(itertools.takewhile(lambda index: index not in empty, ahead))
        yield from (each for each in _outwards(draw, start, keys[start], before) if each[0] in reach)


def _outwards(draw: Draw, start: int, prompt: SlicePrompt, ahead: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Masks of the slices ``ahead`` of the one with a box, as long as they look like one structure."""
    if not ahead:
        return
    mask = draw(start, prompt)
    for index in ahead:
        if not mask.any():
            return
        drawn = draw(index, box_of(mask))
        if not _continues(mask, drawn):
            return
        yield index, drawn
        mask = drawn


def _continues(mask: np.ndarray, drawn: np.ndarray) -> bool:
    """Whether a mask is of the structure that the neighbouring slice's mask is of."""
    area, last = int(drawn.sum()), int(mask.sum())
    if area == 0 or not 1 / JUMP <= area / last <= JUMP:
        return False
    return int((mask & drawn).sum()) >= OVERLAP * min(area, last)
