"""Slices of scans that nobody labelled: drawn beside the labelled ones as soon as a network has labelled them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.config import Axis
from medsam_adapt.core.files import make_shared_folder
from medsam_adapt.data.datasets.unlabelled import UnlabelledScans
from medsam_adapt.data.slices.geometry import SlicePlan, count_slices
from medsam_adapt.data.slices.sampling import balanced_weights
from medsam_adapt.data.slices.slice_store import (
    SliceSettings,
    StoredCase,
    StoredScan,
    label_arrays,
    store_cases,
    stored_bytes,
)
from medsam_adapt.data.volumes.case import Case
from medsam_adapt.data.volumes.io import read_header


class UnlabelledSlices:
    """The slices of unlabelled scans in every direction that is trained on, and their share of the draws.

    Until :meth:`read_labels` no slice of theirs is drawn. Labels may be read again: data sets that were made before
    take the new ones at the start of their next pass.

    Args:
        scans: what was found.
        share: of all draws that these slices get.
        empty_share: of the slices outside the range in which a scan's label has a class.
        seed: of the choice of those.
        balanced: whether slices of rare classes are drawn as often as those of common ones.
    """

    def __init__(self, scans: UnlabelledScans, share: float, empty_share: float, seed: int, balanced: bool) -> None:
        self.scans, self.share, self.balanced = scans, share, balanced
        self.empty_share, self.seed = empty_share, seed
        self._stored: dict[Axis, dict[str, StoredScan]] = {}
        self._settings: dict[Axis, SliceSettings] = {}
        self._weights: list[tuple[np.ndarray, int]] = []

    def store(
        self, settings: SliceSettings, cache_dir: str | Path | None, progress: Callable[[str], None] | None = None
    ) -> None:
        """Make the slices of one direction, or find them in the cache; arguments as for `store_cases`."""
        stored = store_cases(self.scans.cases, settings, cache_dir, progress, self.scans.root)
        self._stored[settings.axis] = {name: each for name, each in stored.items() if isinstance(each, StoredScan)}
        self._settings[settings.axis] = settings

    def store_bytes(self, settings: SliceSettings, channels: int) -> int:
        """About how many bytes `store` takes in the cache."""
        return sum(stored_bytes(read_header(case.image), settings, channels) for case in self.scans.cases)

    def count_slices(self, axes: Sequence[Axis]) -> int:
        """How many slices there are in all of some directions."""
        return sum(_count(case, axes) for case in self.scans.cases)

    def limit(self, most: int, axes: Sequence[Axis]) -> None:
        """Keep only so many scans, one at least, that there are at most so many slices; call it before `store`."""
        ends = np.cumsum([_count(case, axes) for case in self.scans.cases])
        kept = max(1, int((ends <= most).sum()))
        self.scans = replace(self.scans, cases=self.scans.cases[:kept])

    def views(self) -> dict[str, StoredScan]:
        """The slices of all directions, by what samples name."""
        return names_of_views(self._stored)

    def samples(self) -> list[dict[str, Any]]:
        """{case, slice} of every slice."""
        return [
            {"case": name, "slice": index} for name, scan in self.views().items() for index in range(len(scan.images))
        ]

    def beside(self, weights: np.ndarray) -> np.ndarray:
        """The shares of the draws of labelled samples (N,) and behind them of ours, which are zero without labels.

        The array is changed where labels are read.
        """
        together = np.concatenate([weights, np.zeros(len(self.samples()))])
        self._weights.append((together, len(weights)))
        return together

    def write_labels(self, folder: Path, case_id: str, label: np.ndarray, table: np.ndarray | None, like: Any) -> None:
        """Write what a network drew on a scan, as slices of every direction.

        Args:
            folder: of the labels of all scans.
            case_id: of the scan.
            label: (X, Y, Z) classes, or parts, in RAS order.
            table: (P, C) of the parts.
            like: (3,) sides of a voxel, mm.
        """
        for axis, settings in self._settings.items():
            size = settings.image_size
            plan = SlicePlan.of(label.shape, [float(side) for side in like], axis, size)
            place = _place(folder, case_id, axis)
            make_shared_folder(place)
            for name, array in label_arrays(label, table, plan, axis, len(settings.label_ids)).items():
                np.save(place / f"{name}.npy", array)

    def read_labels(self, *folders: Path) -> None:
        """Take the labels in the first of some folders that has a scan's, and draw by them from the next pass on.

        Scans without labels are not drawn.

        Raises:
            OSError, ValueError, EOFError: the first folder is missing, or labels are damaged.
        """
        present = [{path.name for path in folder.iterdir()} for folder in folders[:1]]
        present += [{path.name for path in folder.iterdir()} if folder.is_dir() else set() for folder in folders[1:]]
        for axis, stored in self._stored.items():
            for name, scan in stored.items():
                place = next((folder for folder, names in zip(folders, present, strict=True) if name in names), None)
                if place is not None:
                    scan.read_labels(_place(place, name, axis))
        drawn = self._shares()
        for together, count in self._weights:
            labelled = together[:count] / together[:count].sum()
            share = self.share if drawn.any() else 0.0
            together[:] = np.concatenate([(1 - share) * labelled, share * drawn])

    def _shares(self) -> np.ndarray:
        """(M,) the share of our draws that each of our samples gets, 0 for slices that are left out."""
        random = np.random.default_rng(self.seed)
        kept, shows = [], []
        for scan in self.views().values():
            slices = scan.training_slices(self.empty_share, random) if scan.labelled else np.zeros(0, int)
            kept.append(np.isin(np.arange(len(scan.voxels)), slices))
            shows.append(scan.voxels[:, 1:] > 0)
        chosen, memberships = np.concatenate(kept), np.concatenate(shows)
        shares = np.zeros(len(chosen))
        if chosen.any():
            count = int(chosen.sum())
            shares[chosen] = balanced_weights(memberships[chosen]) if self.balanced else np.full(count, 1 / count)
        return shares


def names_of_views(stored: Mapping[Axis, Mapping[str, Any]]) -> dict[str, Any]:
    """Slices of several directions, by case id in the first of them, and with the direction behind it in the others."""
    views: dict[str, Any] = {}
    for number, (axis, cases) in enumerate(stored.items()):
        views |= {f"{case_id} ({axis})" if number else case_id: each for case_id, each in cases.items()}
    return views


def with_unlabelled(views: Mapping[str, StoredCase], unlabelled: UnlabelledSlices | None) -> dict[str, StoredCase]:
    """Labelled and unlabelled slices together."""
    return {**views, **({} if unlabelled is None else unlabelled.views())}


def _count(case: Case, axes: Sequence[Axis]) -> int:
    header = read_header(case.image)
    return sum(count_slices(header.shape, header.affine, axis) for axis in axes)


def _place(folder: Path, case_id: str, axis: Axis) -> Path:
    return folder / case_id / axis
