"""What the classes of a run are like in its training cases: ``statistics.json``.

For each class the file holds its volume and its mean grey level in every training case, sorted, so that nothing shows
which patient a value belongs to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from medsam_adapt.core.files import read_record
from medsam_adapt.data.volumes.cleaning import voxel_ml

if TYPE_CHECKING:  # both import torch
    from medsam_adapt.data.slices.slice_store import StoredCase
    from medsam_adapt.data.slices.training_data import TrainingData

STATISTICS_FILE = "statistics.json"


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


def training_statistics(data: TrainingData) -> TrainingStatistics:
    """The statistics of a run's training cases, from their stored slices."""
    volumes: list[list[float]] = [[] for _ in data.class_names]
    greys: list[list[float]] = [[] for _ in data.class_names]
    for case_id, stored in data.store().items():
        ml = voxel_ml(data.check.headers[case_id].affine)
        voxels = stored.voxels.sum(axis=0)[1:]
        means = _mean_grey(stored, len(data.class_names))
        for index in np.flatnonzero(voxels):
            volumes[index].append(round(float(voxels[index] * ml), 4))
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
    return read_record(path, TrainingStatistics, "Restore it, or remove it to do without.") if path.is_file() else None
