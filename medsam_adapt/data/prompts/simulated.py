"""Prompts: simulated from a label, as SAM is fine-tuned, or given by a user on a slice.

A simulated prompt is a box around the structure, or points inside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from medsam_adapt.config import PromptMode
from medsam_adapt.core.lazy import lazy_module

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = lazy_module("scipy.ndimage")

BOX_JITTER = 20  # pixels a side, in an image of 256 pixels
BOX_SLACK = 0.1  # of the structure's own width or height: a looser box shows little of where a small one ends
BOX_TIGHT = 0.5  # share of sides left tight: if every box were too large, masks in tight boxes would be too small
MAX_POINTS = 8
_PADDING_POINT = (0.0, 0.0, -1.0)


class Resizing(Protocol):
    """Rows and columns of a slice, as it is and as the network sees it."""

    @property
    def native(self) -> tuple[int, int]: ...

    @property
    def resized(self) -> tuple[int, int]: ...


def tight_box(mask: np.ndarray) -> np.ndarray | None:
    """x0, y0, x1, y1 (first and last pixel, float32) around a mask (rows, columns); None when it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)


def jittered_box(
    mask: np.ndarray, image_size: int, random: np.random.RandomState, slack: float = np.inf, tight: float = 0.0
) -> np.ndarray:
    """The tight box, each side grown by 0 to 20 pixels (at 256-pixel scale) and clipped to the slice.

    Args:
        mask: (rows, columns) of the slice inside its square; an empty one gives the box of the whole slice.
        image_size: side of the square, which sets the scale.
        random: where the growth is drawn from.
        slack: the most that a side grows, as a share of the structure's width or height.
        tight: share of the sides that do not grow.
    """
    height, width = mask.shape
    box = tight_box(mask)
    if box is None:
        return np.array([0, 0, width - 1, height - 1], dtype=np.float32)
    most = np.minimum(BOX_JITTER * image_size / 256, slack * np.tile(box[2:] - box[:2] + 1, 2))
    growth = random.uniform(0, 1, size=4) * most * (-1, -1, 1, 1)
    if tight:
        growth *= random.uniform(0, 1, size=4) >= tight
    return np.clip(box + growth, 0, (width - 1, height - 1, width - 1, height - 1)).astype(np.float32)


def points_inside(mask: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
    """``count`` points x, y, label (count, 3) drawn inside the mask eroded by one pixel, or inside the mask itself.

    A mask too thin to erode is used as it is; an empty one gives padding points (label -1).
    """
    inside = ndimage.binary_erosion(mask)
    rows, columns = np.nonzero(inside if inside.any() else mask)
    if rows.size == 0:
        return np.tile(np.array(_PADDING_POINT, dtype=np.float32), (count, 1))
    chosen = random.randint(rows.size, size=count)
    return np.stack([columns[chosen], rows[chosen], np.ones(count)], axis=1).astype(np.float32)


def simulate_prompt(
    mask: np.ndarray, mode: PromptMode, image_size: int, random: np.random.RandomState
) -> dict[str, Any]:
    """The prompt of one training sample as keyword arguments of the segmenter.

    Returns:
        nothing, ``boxes`` (4,), or ``points`` (MAX_POINTS, 3) of which one to all are used and the rest are padding.
    """
    if mode == "box":
        return {"boxes": jittered_box(mask, image_size, random, BOX_SLACK, BOX_TIGHT)}
    if mode == "points":
        points = points_inside(mask, MAX_POINTS, random)
        points[random.randint(1, MAX_POINTS + 1) :] = _PADDING_POINT
        return {"points": points}
    return {}


def exact_prompt(mask: np.ndarray, mode: PromptMode) -> dict[str, Any]:
    """The prompt without chance, for evaluation: the tight box, or the point deepest inside the mask (1, 3)."""
    if mode == "box":
        return {"boxes": tight_box(mask)}
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    return {"points": np.array([[column, row, 1.0]], dtype=np.float32)}


@dataclass(frozen=True)
class SlicePrompt:
    """What points at one structure on one slice, in that slice's own pixels; whole numbers are centres of pixels.

    Attributes:
        box: x0, y0, x1, y1 (first and last pixel; x is the column, y the row); None without one.
        points: (x, y, inside) each, outside ones mark where the structure is not.
    """

    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, bool], ...] = ()

    def resized(self, plan: Resizing) -> dict[str, np.ndarray]:
        """Keyword arguments of the segmenter, in pixels of the resized slice: ``boxes`` (4,), ``points`` (n, 3)."""
        down, across = (new / old for new, old in zip(plan.resized, plan.native, strict=True))
        prompt: dict[str, np.ndarray] = {}
        if self.box is not None:
            x0, y0, x1, y1 = self.box  # the outer border of the first and the last pixel, and half a pixel inwards
            box = (x0 * across, y0 * down, (x1 + 1) * across - 1, (y1 + 1) * down - 1)
            height, width = plan.resized
            prompt["boxes"] = np.clip(np.array(box, np.float32), 0, (width - 1, height - 1, width - 1, height - 1))
        if self.points:
            rows = [((x + 0.5) * across - 0.5, (y + 0.5) * down - 0.5, float(inside)) for x, y, inside in self.points]
            prompt["points"] = np.array(rows, dtype=np.float32)
        return prompt


#: slice -> class (from 1) -> what points at it there
SlicePrompts = Mapping[int, Mapping[int, SlicePrompt]]


def prompts_of_masks(masks: Sequence[np.ndarray], mode: PromptMode) -> SlicePrompts:
    """The exact prompt of each class on each slice that shows it; ``masks``: (N, rows, columns) of each class."""
    found: dict[int, dict[int, SlicePrompt]] = {}
    for number, slices in enumerate(masks, start=1):
        for index in np.flatnonzero(slices.any(axis=(1, 2))):
            exact = exact_prompt(slices[index] > 0, mode)
            if mode == "box":
                x0, y0, x1, y1 = (float(value) for value in exact["boxes"])
                prompt = SlicePrompt(box=(x0, y0, x1, y1))
            else:
                x, y, _ = (float(value) for value in exact["points"][0])
                prompt = SlicePrompt(points=((x, y, True),))
            found.setdefault(int(index), {})[number] = prompt
    return found


def flip_prompt(prompt: Mapping[str, np.ndarray], dims: Sequence[int], plan: Resizing) -> dict[str, np.ndarray]:
    """Arguments of the segmenter for the resized slice mirrored along ``dims`` (-2 the rows, -1 the columns)."""
    flipped = {name: value.copy() for name, value in prompt.items()}
    for dim in dims:
        last, coordinate = plan.resized[dim] - 1, {-1: 0, -2: 1}[dim]
        if "boxes" in flipped:
            low, high = flipped["boxes"][[coordinate, coordinate + 2]]
            flipped["boxes"][[coordinate, coordinate + 2]] = last - high, last - low
        if "points" in flipped:
            flipped["points"][:, coordinate] = last - flipped["points"][:, coordinate]
    return flipped
