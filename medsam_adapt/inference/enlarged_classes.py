"""The class of every pixel of an enlarged slice, without enlarging the logits of every class.

Bilinear interpolation weighs four logits of each class. Where one class is the highest at all four, it is the highest
between them too, so that most pixels need no arithmetic. Pixels along the borders of structures are interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# An interpolated number takes five roundings at most, each of at most 2^-24 of the largest of its four logits. Here and
# in torch together that is 10 times 2^-24 for each of the two numbers compared; the rest is a margin.
_ROUNDING = 16 * 2.0**-24
_MOST = 0.25  # of the blocks that hold a border: beyond, interpolating all pixels takes about as long


@dataclass(frozen=True)
class _Blocks:
    """The pixels of one enlarged axis in blocks that lie between the same two original pixels.

    Attributes:
        first: (B,) the original pixel before each block.
        second: (B,) the original pixel behind it.
        pixels: (P, B) the pixels of each block; a smaller block has its last pixel several times.
        before: (P, B) weight of ``first`` at each of them.
        behind: (P, B) weight of ``second``.
        of_pixel: the block that each pixel is in.
    """

    first: Tensor
    second: Tensor
    pixels: Tensor
    before: Tensor
    behind: Tensor
    of_pixel: Tensor


@lru_cache(16)
def _blocks(old: int, new: int) -> _Blocks:
    # Torch's own weights, whatever it rounds on the way to them: those by which it enlarges one pixel at a time.
    pixels_alone = torch.eye(old)[None, :, :, None]
    weights = F.interpolate(pixels_alone, (new, 1), mode="bilinear", align_corners=False)[0, :, :, 0]
    first = (weights > 0).to(torch.uint8).argmax(dim=0)
    second = (first + 1).clamp(max=old - 1)
    places = torch.arange(new)
    before = weights[first, places]
    behind = weights[second, places].where(second > first, torch.zeros(()))
    most = math.ceil(new / old)
    groups: list[list[int]] = []
    befores = first.tolist()
    for pixel, pixel_before in enumerate(befores):
        if groups and pixel_before == befores[groups[-1][0]] and len(groups[-1]) < most:
            groups[-1].append(pixel)
        else:
            groups.append([pixel])
    pixels = torch.tensor([group + group[-1:] * (most - len(group)) for group in groups]).T.contiguous()
    of_pixel = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([len(group) for group in groups]))
    heads = pixels[0]
    return _Blocks(first[heads], second[heads], pixels, before[pixels], behind[pixels], of_pixel)


def enlarged_classes(logits: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Where ``F.interpolate(logits[None], size, mode="bilinear", align_corners=False)`` is highest, bit-identical.

    Args:
        logits: (K, h, w) float32, on a processor.
        size: rows and columns.

    Returns:
        Classes (rows, columns) uint8; None where all logits have to be interpolated, since rounding alone decides
        about a pixel, or since there are so many borders that it takes no longer.
    """
    width = logits.shape[2]
    rows, columns = _blocks(logits.shape[1], size[0]), _blocks(width, size[1])
    decided = _decided(logits)
    decided = _agreeing(decided, rows.first, rows.second, 0)
    decided = _agreeing(decided, columns.first, columns.second, 1)
    classes = decided.index_select(1, columns.of_pixel).index_select(0, rows.of_pixel)
    down, across = (decided < 0).nonzero(as_tuple=True)
    if len(down) > _MOST * decided.numel():
        return None
    if len(down):
        above, below = rows.first[down] * width, rows.second[down] * width
        left, right = columns.first[across], columns.second[across]
        corners = [above + left, above + right, below + left, below + right]
        of_columns, of_rows = (columns.before, columns.behind), (rows.before, rows.behind)
        weights = [each[:, across] for each in of_columns] + [each[:, None, down] for each in of_rows]
        found = _interpolated(_contenders(logits), corners, weights)
        if found is None:
            return None
        places = rows.pixels[:, None, down] * size[1] + columns.pixels[:, across]
        classes.view(-1)[places.view(-1)] = found.view(-1)
    return classes.to(torch.uint8)


def _decided(logits: Tensor) -> Tensor:
    """The highest class (h, w) int16 of each pixel; -1 where it is not above all others by more than rounding."""
    highest, classes = logits.max(dim=0)
    second = logits.scatter(0, classes[None], -torch.inf).amax(dim=0)
    # Never true of what is no number.
    is_clear = highest - second > 2 * _ROUNDING * torch.maximum(highest.abs(), second.abs())
    return classes.to(torch.int16).where(is_clear, torch.tensor(-1, dtype=torch.int16))


def _agreeing(classes: Tensor, first: Tensor, second: Tensor, dim: int) -> Tensor:
    """What ``classes`` are at ``first`` along an axis, and -1 where they are not the same at ``second``."""
    one, other = classes.index_select(dim, first), classes.index_select(dim, second)
    return one.where(one == other, torch.tensor(-1, dtype=torch.int16))


def _contenders(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers (k,) and logits (k, h, w) of the classes without those that another one is above everywhere."""
    lowest, highest = logits.amin(dim=(1, 2)), logits.amax(dim=(1, 2))
    floor = lowest.max()
    kept = (highest < floor - _ROUNDING * (highest.abs() + floor.abs())).logical_not().nonzero()[:, 0]
    return kept, logits if len(kept) == len(logits) else logits.index_select(0, kept)


def _interpolated(
    contenders: tuple[Tensor, Tensor], corners: Sequence[Tensor], weights: Sequence[Tensor]
) -> Tensor | None:
    """The highest class at each pixel of n blocks, (P, Q, n) int16; None where rounding decides about one.

    Args:
        contenders: numbers (k,) and logits (k, h, w) of classes.
        corners: (n,) the pixels h * w above left, above right, below left and below right of each block.
        weights: (Q, n) of those on the left and on the right, and (P, 1, n) of those above and below.
    """
    numbers, logits = contenders
    values = logits.flatten(1).index_select(1, torch.cat(list(corners))).unflatten(1, (4, 1, 1, -1))
    scores = _weighed(values, weights)
    highest, winners = scores.max(dim=0)
    second = scores.scatter_(0, winners[None], -torch.inf).amax(dim=0)
    doubtful = (highest - second > 2 * _ROUNDING * values.abs().max()).logical_not().nonzero(as_tuple=True)
    if len(doubtful[0]):  # the largest of all values is a coarse bound
        row, column, block = doubtful
        near = [each[column, block] for each in weights[:2]] + [each[row, 0, block] for each in weights[2:]]
        at_these = values[:, :, 0, 0, block]
        scores, sizes = _weighed(at_these, near), _weighed(at_these.abs(), near)
        best = scores.max(dim=0, keepdim=True)
        is_clear = best.values - scores > _ROUNDING * (sizes + sizes.gather(0, best.indices))
        if not is_clear.scatter(0, best.indices, True).all():
            return None
    return numbers.index_select(0, winners.view(-1)).view(winners.shape).to(torch.int16)


def _weighed(values: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """(k, 4, …) weighed by columns, then by rows: (k, …)."""
    left, right, above, below = weights
    upper = (values[:, 0] * left).addcmul_(values[:, 1], right)
    lower = (values[:, 2] * left).addcmul_(values[:, 3], right)
    return (upper * above).addcmul_(lower, below)
