"""From one prompted slice to its neighbours: the mask just drawn gives the next slice's prompt.

A structure is followed outwards from each slice that the user prompted, until its mask is empty, its area jumps, or
another prompted slice is reached.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from medsam_adapt.config import PromptMode
from medsam_adapt.data.prompts.simulated import SlicePrompt, SlicePrompts, exact_prompt, tight_box
from medsam_adapt.inference.slice_logits import SliceLogits

GROWTH = 0.01  # of the slice's longer side: how far each side of the next box lies outside the mask just drawn
JUMP = 2.5  # a mask this many times larger or smaller than the last one is of something else


def propagate(slices: SliceLogits, prompts: SlicePrompts, mode: PromptMode) -> SlicePrompts:
    """``prompts`` and those that follow from them on the other slices.

    Args:
        slices: of the volume, with the segmenter that draws the masks.
        prompts: of the user.
        mode: what the segmenter was trained with: the next prompt is a box, or the point deepest inside the mask.
    """
    complete = {index: dict(on_slice) for index, on_slice in prompts.items()}
    for structure in sorted({structure for on_slice in prompts.values() for structure in on_slice}):
        started = sorted(index for index, on_slice in prompts.items() if structure in on_slice)
        for index in started:
            for ahead in (range(index + 1, slices.shape[0]), range(index - 1, -1, -1)):
                _follow(slices, complete, structure, index, ahead, mode)
    return complete


def _follow(
    slices: SliceLogits,
    complete: dict[int, dict[int, SlicePrompt]],
    structure: int,
    start: int,
    ahead: Iterable[int],
    mode: PromptMode,
) -> None:
    """Add the prompts of ``structure`` on the slices ``ahead`` of the one at ``start``."""
    mask = slices.prompted.draw(start, complete[start][structure])
    for index in ahead:
        if structure in complete.get(index, {}) or not mask.any():
            return
        prompt = _next_prompt(mask, mode)
        drawn = slices.prompted.draw(index, prompt)
        area, last = int(drawn.sum()), int(mask.sum())
        if area == 0 or not 1 / JUMP <= area / last <= JUMP:
            return
        complete.setdefault(index, {})[structure] = prompt
        mask = drawn


def _next_prompt(mask: np.ndarray, mode: PromptMode) -> SlicePrompt:
    if mode == "points":
        x, y, _ = exact_prompt(mask, "points")["points"][0]
        return SlicePrompt(points=((float(x), float(y), True),))
    height, width = mask.shape
    margin = GROWTH * max(mask.shape)
    box = tight_box(mask)
    assert box is not None, "the mask is not empty"
    grown = np.clip(box + np.array([-1, -1, 1, 1]) * margin, 0, (width - 1, height - 1, width - 1, height - 1))
    return SlicePrompt(box=(float(grown[0]), float(grown[1]), float(grown[2]), float(grown[3])))
