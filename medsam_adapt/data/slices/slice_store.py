"""Preprocessed slices on disk: every volume is decompressed once, then read slice by slice in constant memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medsam_adapt.config import Axis, Channels
from medsam_adapt.core.cache import cache_folder, explain_cache_errors, made_in_cache
from medsam_adapt.core.errors import RunError
from medsam_adapt.core.files import file_sha256, make_shared_folder
from medsam_adapt.data.slices.geometry import SlicePlan, as_tensor, slice_coordinates, volume_to_slices
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.stored_array import StoredArray
from medsam_adapt.data.volumes.case import Case
from medsam_adapt.data.volumes.image_set import ImageSet
from medsam_adapt.data.volumes.io import VolumeHeader, read_volume, to_ras
from medsam_adapt.data.volumes.label_coding import (
    EXCLUSIVE,
    IGNORED,
    LabelCoding,
    classes_in,
    count_classes,
    read_classes,
)
from medsam_adapt.data.volumes.label_coding import renumber as renumber  # found here too

_STORE_FORMAT = 2  # part of the key: raise it when the stored bytes change their meaning


@dataclass(frozen=True)
class SliceSettings:
    """Everything besides the files that decides the stored bytes."""

    image_size: int
    axis: Axis
    policy: IntensityPolicy
    label_ids: tuple[int, ...]  # in the files; the i-th becomes class i + 1, all others background
    coding: LabelCoding = EXCLUSIVE  # of the label files


class StoredCase:
    """The slices of one case, each read from the disk when it is asked for.

    Attributes:
        images: (N, h, w) uint8 grey levels, resized but not padded; (N, 3, h, w) of pictures in colour and
            of pairs of images.
        labels: (N, h, w) uint8 classes, 0 is background; or, for classes that may overlap, parts.
        table: (P, C), which classes a part belongs to; None for classes that exclude each other.
        voxels: (N, C + 1) voxels of every class in every native slice.
        unannotated: numbers (from 1) of the classes that nobody annotated; in a ``table`` they are `IGNORED`.
        plausible: (N, C) bool, in which slices each class may be that nobody annotated; None: in all.
        axis: slicing direction.
    """

    plausible: np.ndarray | None = None

    def __init__(self, case_id: str, folder: Path, axis: Axis, unannotated: Sequence[int] = ()) -> None:
        self.case_id, self.axis, self.unannotated = case_id, axis, tuple(unannotated)
        self.images = StoredArray(folder / "images.npy")
        self.labels: StoredArray | np.ndarray = StoredArray(folder / "labels.npy")
        self.voxels: np.ndarray = np.load(folder / "voxels.npy")
        self.table: np.ndarray | None = np.load(folder / "table.npy") if (folder / "table.npy").is_file() else None
        if self.table is not None:
            self.table[:, [number - 1 for number in self.unannotated]] = IGNORED

    def channels(self, index: int, channels: Channels) -> np.ndarray:
        """Slice ``index`` as (3, h, w): itself three times, itself between its two neighbours, or its colours."""
        if len(self.images.shape) == 4:
            return self.images[index]
        if channels == "repeat":
            return np.repeat(self.images[index][None], 3, axis=0)
        neighbours = np.clip((index - 1, index, index + 1), 0, len(self.images) - 1)
        return np.stack([self.images[neighbour] for neighbour in neighbours])

    def coordinates(self, index: int) -> np.ndarray:
        """Where the pixels of slice ``index`` lie in the volume, (3, h, w) as `slice_coordinates` gives them."""
        return slice_coordinates(self.axis, index, len(self.images), *self.images.shape[-2:])

    def grey(self, index: int) -> np.ndarray:
        """Slice ``index`` as (h, w) grey levels; of colours their mean."""
        image = self.images[index]
        return image if image.ndim == 2 else image.mean(axis=0)

    def hidden(self, index: int) -> np.ndarray:
        """(C,) bool: which classes may be in slice ``index`` although nobody annotated them."""
        hidden = np.isin(np.arange(1, self.voxels.shape[1]), self.unannotated)
        return hidden if self.plausible is None else hidden & self.plausible[index]

    def table_of(self, index: int) -> np.ndarray | None:
        """The ``table`` for slice ``index``: classes that nobody annotated are `IGNORED` only where they may be."""
        if self.table is None or self.plausible is None:
            return self.table
        absent = [number - 1 for number in self.unannotated if not self.plausible[index, number - 1]]
        table = self.table.copy()
        table[:, absent] = 0
        return table

    def classes_in(self, index: int) -> np.ndarray:
        """Numbers (from 1) of the classes that are left in slice ``index`` once it is resized."""
        return classes_in(self.labels[index], self.table)

    def training_slices(self, empty_share: float, random: np.random.Generator) -> np.ndarray:
        """Indices of all slices of the labelled range, and of a share of the slices outside it, in order.

        A case without any of the classes has no such range: a share of all its slices teaches what is not to be found.
        """
        labelled = np.flatnonzero(self.voxels[:, 1:].any(axis=1))
        inside = np.arange(labelled[0], labelled[-1] + 1) if labelled.size else labelled
        outside = np.setdiff1d(np.arange(len(self.voxels)), inside)
        drawn = random.choice(outside, size=round(empty_share * outside.size), replace=False)
        return np.sort(np.concatenate([inside, drawn]))


class StoredScan(StoredCase):
    """The slices of a scan that nobody labelled; they have labels once :meth:`read_labels` found what a network drew.

    Args:
        case_id: of the scan.
        folder: of its images.
        axis: slicing direction.
        classes: how many a network draws.

    Attributes:
        labelled: whether they have labels.
    """

    def __init__(self, case_id: str, folder: Path, axis: Axis, classes: int) -> None:
        self.case_id, self.axis, self.unannotated, self.table = case_id, axis, (), None
        self.images = StoredArray(folder / "images.npy")
        self.labelled = False
        # Of no class until they are labelled: features are computed before, by the same transforms.
        self.labels = np.broadcast_to(np.uint8(0), (len(self.images), *self.images.shape[-2:]))
        self.voxels = np.zeros((len(self.images), classes + 1), dtype=np.int64)

    def read_labels(self, folder: Path) -> None:
        """Take the `label_arrays` in a folder for the labels."""
        self.labelled = True
        self.labels = StoredArray(folder / "labels.npy")
        self.voxels = np.load(folder / "voxels.npy")
        self.table = np.load(folder / "table.npy") if (folder / "table.npy").is_file() else None


def store_cases(
    cases: Sequence[Case],
    settings: SliceSettings,
    cache_dir: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    dataset: str | Path | None = None,
) -> dict[str, StoredCase]:
    """Slices of all ``cases`` by case id, made where the cache does not hold them yet.

    Args:
        cases: with their labels, or without any: they then become `StoredScan`.
        settings: how they are sliced.
        cache_dir: folder of the cache; ``cache`` under ``MEDSAM_ADAPT_HOME`` when None.
        progress: called with each case id as it is ready.
        dataset: the folder that the cases come from, which ``cache info`` shows.

    Raises:
        InputError: the cache cannot be written to; and as `read_volume` and `read_classes`.
        RunError: the disk is full, or what the cache holds is damaged.
    """
    root = cache_folder(cache_dir)
    with explain_cache_errors(root):
        make_shared_folder(root)
    folders = {}
    for case in cases:
        folders[case.id] = root / _key(case, settings)
        if not folders[case.id].is_dir():
            _make(case, settings, folders[case.id], dataset)
        if progress:
            progress(case.id)
    # Opened only now: what stays in memory between the large arrays of two cases would keep theirs from being reused.
    return {case.id: _open(case, folders[case.id], settings) for case in cases}


def _open(case: Case, folder: Path, settings: SliceSettings) -> StoredCase:
    numbers = [number for number, each in enumerate(settings.label_ids, start=1) if each in case.unannotated]
    try:
        if case.label_source is None:
            return StoredScan(case.id, folder, settings.axis, len(settings.label_ids))
        return StoredCase(case.id, folder, settings.axis, numbers)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"{folder}: it is damaged ({error}). Remove it, or run 'medsam-adapt cache clear'.") from error


def stored_bytes(header: VolumeHeader, settings: SliceSettings, channels: int = 1) -> int:
    """About how many bytes a case with this many channels will take in the cache."""
    view, affine = to_ras(np.broadcast_to(np.uint8(0), header.shape), header.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    plan = SlicePlan.of(view.shape, tuple(spacing), settings.axis, settings.image_size)
    count = len(volume_to_slices(view, settings.axis))
    height, width = plan.resized
    return count * ((channels + 1) * height * width + 8 * (len(settings.label_ids) + 1))


def _key(case: Case, settings: SliceSettings) -> str:
    """The files' bytes and the settings: the same slices are found again wherever the files are moved."""
    description: dict[str, Any] = {
        "format": _STORE_FORMAT,
        "image_size": settings.image_size,
        "axis": settings.axis,
        "policy": settings.policy.model_dump(),
        "label_ids": settings.label_ids,
        "files": [file_sha256(path) for path in case.files()],
    }
    if isinstance(case.image, ImageSet) and case.image.series:
        description["series"] = case.image.series
    if settings.coding != EXCLUSIVE:
        description["coding"] = asdict(settings.coding)
        description["masks"] = [*case.masks]
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:32]


def _make(case: Case, settings: SliceSettings, folder: Path, dataset: str | Path | None = None) -> None:
    """Write a case's slices to a separate folder and rename it: another run sees all of it or nothing."""
    image, header = read_volume(case.image, suv=settings.policy.suv)
    image, affine = to_ras(image, header.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    plan = SlicePlan.of(image.shape, tuple(spacing), settings.axis, settings.image_size)
    images = plan.resize_image(as_tensor(volume_to_slices(settings.policy.apply(image), settings.axis)))
    arrays = {"images": images.numpy().astype(np.uint8)}
    if case.label_source is not None:
        label, table = read_classes(case.label_source, settings.label_ids, settings.coding, header)
        label, _ = to_ras(label, header.affine)
        arrays |= label_arrays(label, table, plan, settings.axis, len(settings.label_ids))
    with explain_cache_errors(folder.parent), made_in_cache(folder, dataset) as temporary:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)


def label_arrays(
    label: np.ndarray, table: np.ndarray | None, plan: SlicePlan, axis: Axis, classes: int
) -> dict[str, np.ndarray]:
    """The labels, voxels and table of a `StoredCase`.

    Args:
        label: (X, Y, Z) classes, or parts, in RAS order.
        table: (P, C) of the parts.
        plan: of the slices along ``axis``.
        axis: slicing direction.
        classes: C.
    """
    slices = volume_to_slices(label, axis)
    voxels = np.stack([count_classes(each, classes, table) for each in slices])
    # torch indexes bytes, but not all the wider types that parts may need
    resized = plan.resize_label(as_tensor(slices, torch.uint8 if table is None else torch.int64))
    arrays = {"labels": resized.numpy().astype(label.dtype), "voxels": voxels}
    return arrays if table is None else {**arrays, "table": table}
