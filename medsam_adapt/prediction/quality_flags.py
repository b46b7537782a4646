"""What is worth a second look in a segmentation: flags by comparison with the cases that the run was trained on.

``statistics.json`` in a run's folder holds, for each class, its volume and its mean grey level in every training case,
sorted, so that nothing says whose they are. A flag is no verdict: patients differ more than training cases do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from medsam_adapt.core.files import read_record

if TYPE_CHECKING:
    from medsam_adapt.data.slices.slice_store import StoredCase
    from medsam_adapt.data.slices.training_data import TrainingData

STATISTICS_FILE = "statistics.json"
VOLUME_MARGIN = 1.5  # a volume beyond the range of the training cases by this factor is told
GREY_MARGIN = 20.0  # so is a mean grey level (0 to 255) this far beyond their range
SMALL_PIECE = 0.01  # pieces smaller than this share of a class are not counted


class ClassStatistics(BaseModel):
    """Of one class in the training cases that have it, sorted: volumes in ml, and mean grey levels (0 to 255)."""

    model_config = ConfigDict(extra="forbid")

    volume_ml: list[float]
    grey_level: list[float]


class TrainingStatistics(BaseModel):
    """Content of ``statistics.json``: what each class, by name, is like in the training cases."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    classes: dict[str, ClassStatistics]


class Flag(BaseModel):
    """Something worth a second look; ``structure`` is None where it concerns the whole volume."""

    structure: str | None
    kind: Literal["modality", "empty", "pieces", "volume", "intensity"]
    text: str


def training_statistics(data: TrainingData) -> TrainingStatistics:
    """The statistics of a run's training cases, from their stored slices."""
    volumes: list[list[float]] = [[] for _ in data.class_names]
    greys: list[list[float]] = [[] for _ in data.class_names]
    for case_id, stored in data.store().items():
        voxel_ml = abs(np.linalg.det(data.check.headers[case_id].affine[:3, :3])) / 1000
        voxels = stored.voxels.sum(axis=0)[1:]
        means = _mean_grey(stored, len(data.class_names))
        for index in np.flatnonzero(voxels):
            volumes[index].append(round(float(voxels[index] * voxel_ml), 4))
            if np.isfinite(means[index]):
                greys[index].append(round(float(means[index]), 2))
    return TrainingStatistics(
        classes={
            name: ClassStatistics(volume_ml=sorted(volumes[index]), grey_level=sorted(greys[index]))
            for index, name in enumerate(data.class_names)
        }
    )


def _mean_grey(stored: StoredCase, count: int) -> np.ndarray:
    """(C,) mean grey level of each class in a case, NaN where it has no pixel left."""
    size = max(256, count + 1) if stored.table is None else len(stored.table)
    sums, pixels = np.zeros(size), np.zeros(size)
    for index in np.flatnonzero(stored.voxels[:, 1:].any(axis=1)).tolist():
        label = stored.labels[index].ravel()
        sums += np.bincount(label, stored.grey(index).ravel(), minlength=size)
        pixels += np.bincount(label, minlength=size)
    if stored.table is not None:
        belongs = (stored.table == 1).T
        sums, pixels = belongs @ sums, belongs @ pixels
    else:
        sums, pixels = sums[1 : count + 1], pixels[1 : count + 1]
    with np.errstate(invalid="ignore"):
        return sums / pixels


def read_statistics(run: str | Path) -> TrainingStatistics | None:
    """The statistics in a run's folder; None for a run that has none.

    Raises:
        InputError: a damaged file, or one of a newer version.
    """
    path = Path(run) / STATISTICS_FILE
    return read_record(path, TrainingStatistics, "restore it, or remove it to do without") if path.is_file() else None


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
