"""Flags for review in a segmentation, by comparison with the cases that the run was trained on.

A flag is no verdict: patients differ more than training cases do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from medsam_adapt.runs.statistics import ClassStatistics

VOLUME_MARGIN = 1.5  # a volume beyond the range of the training cases by this factor is flagged
GREY_MARGIN = 20.0  # so is a mean grey level (0 to 255) this far beyond their range
SMALL_PIECE = 0.01  # pieces smaller than this share of a class are not counted


class Flag(BaseModel):
    """A flag for review; ``structure`` is None where it concerns the whole volume."""

    structure: str | None
    kind: Literal["modality", "empty", "pieces", "volume", "intensity"]
    text: str


def class_flags(
    name: str, volume_ml: float, grey_level: float, pieces: Sequence[int], known: ClassStatistics | None
) -> list[Flag]:
    """Flags of one class in one volume.

    Args:
        name: of the class.
        volume_ml: its volume.
        grey_level: its mean grey level.
        pieces: voxels of its connected pieces, the largest first.
        known: what it is like in the training cases, None where nobody knows.
    """
    if not pieces:
        return [Flag(structure=name, kind="empty", text=f"{name} was not found")]
    flags = []
    counted = [size for size in pieces if size >= SMALL_PIECE * sum(pieces)]
    if len(counted) > 1:
        share = round(100 * pieces[0] / sum(pieces))
        text = f"{name} is in {len(counted)} pieces, the largest of which has {share} %"
        flags.append(Flag(structure=name, kind="pieces", text=text))
    if known and known.volume_ml:
        low, high = known.volume_ml[0], known.volume_ml[-1]
        if not low / VOLUME_MARGIN <= volume_ml <= high * VOLUME_MARGIN:
            text = f"{name} has {volume_ml:.3g} ml; in the training cases it has {low:.3g} to {high:.3g} ml"
            flags.append(Flag(structure=name, kind="volume", text=text))
    if known and known.grey_level:
        low, high = known.grey_level[0], known.grey_level[-1]
        if not low - GREY_MARGIN <= grey_level <= high + GREY_MARGIN:
            text = f"{name} has a mean grey level of {grey_level:.0f}; in the training cases {low:.0f} to {high:.0f}"
            flags.append(Flag(structure=name, kind="intensity", text=text))
    return flags
