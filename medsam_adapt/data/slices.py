"""Preprocessed slices on disk: every volume is decompressed once, then read slice by slice in constant memory."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medsam_adapt.config import Axis, Channels
from medsam_adapt.data.cases import Case
from medsam_adapt.data.geometry import SlicePlan, as_tensor, volume_to_slices
from medsam_adapt.data.intensity import IntensityPolicy
from medsam_adapt.data.io import read_label, read_volume, to_ras
from medsam_adapt.files import file_sha256, home

_STORE_FORMAT = 1  # part of the key: raise it when the stored bytes change their meaning


@dataclass(frozen=True)
class SliceSettings:
    """Everything besides the files that decides the stored bytes."""

    image_size: int
    axis: Axis
    policy: IntensityPolicy
    label_ids: tuple[int, ...]  # in the files; the i-th becomes class i + 1, all others background


class StoredCase:
    """The slices of one case, memory-mapped.

    Attributes:
        images: (N, h, w) uint8 grey levels, resized but not padded.
        labels: (N, h, w) uint8 classes, 0 is background.
        voxels: (N, C + 1) voxels of every class in every native slice.
    """

    def __init__(self, case_id: str, folder: Path) -> None:
        self.case_id = case_id
        self.images: np.ndarray = np.load(folder / "images.npy", mmap_mode="r")
        self.labels: np.ndarray = np.load(folder / "labels.npy", mmap_mode="r")
        self.voxels: np.ndarray = np.load(folder / "voxels.npy")

    def channels(self, index: int, channels: Channels) -> np.ndarray:
        """Slice ``index`` as (3, h, w): itself three times, or itself between its two neighbours."""
        neighbours = (index, index, index) if channels == "repeat" else (index - 1, index, index + 1)
        return self.images[np.clip(neighbours, 0, len(self.images) - 1)]

    def training_slices(self, empty_share: float, random: np.random.Generator) -> np.ndarray:
        """Indices of all slices of the labelled range, and of a share of the slices outside it, in order.

        A case without any of the classes has no such range: a share of all its slices teaches what is not to be found.
        """
        labelled = np.flatnonzero(self.voxels[:, 1:].any(axis=1))
        inside = np.arange(labelled[0], labelled[-1] + 1) if labelled.size else labelled
        outside = np.setdiff1d(np.arange(len(self.voxels)), inside)
        drawn = random.choice(outside, size=round(empty_share * outside.size), replace=False)
        return np.sort(np.concatenate([inside, drawn]))


def store_cases(
    cases: Sequence[Case],
    settings: SliceSettings,
    cache_dir: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, StoredCase]:
    """Slices of all ``cases`` by case id, made where the cache does not hold them yet.

    Args:
        cases: labelled cases.
        settings: how they are sliced.
        cache_dir: folder of the cache; ``cache`` under ``MEDSAM_ADAPT_HOME`` when None.
        progress: called with each case id as it is ready.
    """
    root = Path(cache_dir) if cache_dir else home() / "cache"
    root.mkdir(parents=True, exist_ok=True)
    stored = {}
    for case in cases:
        folder = root / _key(case, settings)
        if not folder.is_dir():
            _make(case, settings, folder)
        stored[case.id] = StoredCase(case.id, folder)
        if progress:
            progress(case.id)
    return stored


def _key(case: Case, settings: SliceSettings) -> str:
    """The files' bytes and the settings: the same slices are found again wherever the files are moved."""
    description = {
        "format": _STORE_FORMAT,
        "image_size": settings.image_size,
        "axis": settings.axis,
        "policy": settings.policy.model_dump(),
        "label_ids": settings.label_ids,
        "files": [file_sha256(path) for path in (case.image, case.label) if path],
    }
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:32]


def _make(case: Case, settings: SliceSettings, folder: Path) -> None:
    """Write a case's slices to a folder of its own and rename it: another run sees all of it or nothing."""
    assert case.label is not None, "training cases have labels: find_cases checks it"
    image, header = read_volume(case.image)
    label, _ = read_label(case.label)
    image, affine = to_ras(image, header.affine)
    label, _ = to_ras(label, header.affine)
    label = renumber(label, settings.label_ids)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    plan = SlicePlan.of(image.shape, tuple(spacing), settings.axis, settings.image_size)
    label_slices = volume_to_slices(label, settings.axis)
    voxels = np.stack([np.bincount(s.ravel(), minlength=len(settings.label_ids) + 1) for s in label_slices])
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        images = plan.resize_image(as_tensor(volume_to_slices(settings.policy.apply(image), settings.axis)))
        np.save(temporary / "images.npy", images.numpy().astype(np.uint8))
        np.save(temporary / "labels.npy", plan.resize_label(as_tensor(label_slices, torch.uint8)).numpy())
        np.save(temporary / "voxels.npy", voxels)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another run was first, with the same bytes
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def renumber(label: np.ndarray, label_ids: Sequence[int]) -> np.ndarray:
    """Classes 1, 2, … (uint8) for the label ids in their order; every other id becomes background."""
    table = np.zeros(max(int(label.max(initial=0)), *label_ids) + 1, dtype=np.uint8)
    table[list(label_ids)] = np.arange(1, len(label_ids) + 1)
    return table[label]
