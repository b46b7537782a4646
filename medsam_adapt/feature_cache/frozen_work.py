"""Frozen work is done once: what networks that never change make of the training slices is computed before training.

What is frozen is found from the networks themselves (:mod:`medsam_adapt.networks.encoder_stages`), so that a method
needs no separate code for it. The features are known by the frozen weights, the files, the preprocessing and the
augmentation: where one of them changes, others are computed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal
from torch import Tensor

from medsam_adapt.config import Knobs
from medsam_adapt.core.cache import cache_folder
from medsam_adapt.core.distributed import from_main_process
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted
from medsam_adapt.data.slices.stored_array import StoredArray
from medsam_adapt.data.slices.training_data import TrainingData
from medsam_adapt.data.slices.views import Views
from medsam_adapt.feature_cache.moved import moved_features
from medsam_adapt.feature_cache.store import (
    Features,
    Place,
    Progress,
    choose_place,
    features_folder,
    hold_features,
    store_features,
)
from medsam_adapt.networks.encoder_stages import describe_stages, features_shape, run_stages, stage_count, stages_sha256
from medsam_adapt.networks.hiera import Hiera
from medsam_adapt.networks.segmenter import Segmenter

_FORMAT = 1  # part of the key: raise it when the kept numbers change their meaning


@dataclass(frozen=True)
class FrozenPart:
    """The first ``stages`` of a segmenter's image encoder, which are never trained.

    Attributes:
        segmenter: whose encoder it is.
        stages: how many there are, as `medsam_adapt.networks.encoder_stages` counts them.
    """

    segmenter: Segmenter
    stages: int

    @property
    def values(self) -> int:
        """How many values one image's features have."""
        return torch.Size(features_shape(self.segmenter.sam.image_encoder, self.stages)).numel()

    @property
    def whole_trunk(self) -> bool:
        """Whether no block is left to be run behind it."""
        return self.stages >= stage_count(self.segmenter.sam.image_encoder) - 1

    def compute(self, images: Tensor) -> Tensor:
        """Features (B, ...) of images (B, 3, S, S) on the 0-255 scale."""
        sam = self.segmenter.sam
        with torch.no_grad():
            normalised = (images.to(sam.pixel_mean) - sam.pixel_mean) / sam.pixel_std
            return run_stages(sam.image_encoder, normalised, last=self.stages)

    def sha256(self) -> str:
        """Of the weights."""
        return stages_sha256(self.segmenter.sam.image_encoder, self.stages)

    def __str__(self) -> str:
        return describe_stages(self.segmenter.sam.image_encoder, self.stages)


class FrozenWork:
    """The frozen features of a training: whether they are kept, where, and those of a batch.

    With ``cache_frozen`` = ``auto`` they are kept where that changes nothing but rounding, that is without
    augmentation; and with augmentation where a frozen trunk of the trained network is most of the work. Each slice
    then has ``cached_views`` augmented views, of which every draw takes one. Too few epochs to pay for the views, or
    no room for them, and they are computed in every step.

    Args:
        data: the training data.
        segmenter: the network that is trained.
        knobs: the settings of the run.
        device: that trains.
        teacher: a frozen network whose image embedding the training needs too.

    Attributes:
        parts: what is frozen, by the name of the argument that takes its features.
        place: where features are kept; None where they are not.
        done: features computed since :meth:`rehearse`, in ``seconds``.
    """

    def __init__(
        self,
        data: TrainingData,
        segmenter: Segmenter,
        knobs: Knobs,
        device: torch.device,
        teacher: Segmenter | None = None,
    ) -> None:
        self.data, self.knobs, self.device = data, knobs, device
        self.parts: dict[str, FrozenPart] = {}
        if segmenter.frozen_stages >= 2:  # less than a block is not worth its place
            self.parts["features"] = FrozenPart(segmenter, segmenter.frozen_stages)
        if teacher is not None:
            self.parts["teacher_embedding"] = FrozenPart(teacher, stage_count(teacher.sam.image_encoder))
        self.cache = cache_folder(knobs.cache_dir)
        images = "features" not in self.parts or segmenter.detail is not None
        fixed = _is_fixed(knobs)
        self.moves = not fixed and knobs.cached_views == 0
        self._every_view = data.views(1 if fixed else knobs.cached_views, images, self.moves)
        self._kept: dict[str, Features] = {}
        self.place: Place | None = None
        self.done, self.seconds, self._rehearses = 0, 0.0, False
        self.why_not, self.place = from_main_process((self._why_not(), self.place))

    @property
    def views(self) -> Views | None:
        """The versions of the slices that are trained on; None where nothing is kept."""
        return None if self.why_not else self._every_view

    @property
    def bytes(self) -> int:
        """Size of the features of all views together."""
        return len(self._every_view) * sum(part.values for part in self.parts.values()) * self._dtype.itemsize

    @property
    def steps(self) -> int:
        """Features to be computed: one for each part of each view."""
        return len(self._every_view) * len(self.parts)

    def describe(self) -> str:
        """What is kept, or why nothing is, in one sentence."""
        if self.why_not:
            return f"Frozen work is done in every step: {self.why_not}."
        views = self._every_view
        owners = {"features": "", "teacher_embedding": " of the teacher"}
        what = " and ".join(f"{part}{owners[name]}" for name, part in self.parts.items())
        where = {"files": "files of the cache", "memory": "memory", "gpu": "GPU memory"}[self.place or "files"]
        each = f", each in {counted(views.count, 'augmented view')}" if views.count > 1 else ""
        each += ", moved along with the augmentation" * self.moves
        return (
            f"Frozen work is done once: {what}, for {counted(len(views.slices), 'slice')}{each}; "
            f"{decimal(self.bytes)} in {where} (--set cache_frozen=off does it in every step instead)."
        )

    def fill(self, progress: Progress | None = None) -> None:
        """Compute, or find, the features of all views; ``progress`` is called with the number of new ones each time.

        Raises:
            InputError: the cache cannot be written to.
            RunError: the disk is full, or what the cache holds is damaged.
        """
        for name in self.parts if self.views is not None and not self._kept else ():
            self._kept[name] = Features(self._fill(name, progress or (lambda _: None)), self.device)

    def rehearse(self) -> None:
        """From now on keep and look up nothing: features are computed as they are asked for, and timed."""
        self.done, self.seconds, self._rehearses = 0, 0.0, True

    def __call__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Features of a batch, by the name of the argument that takes them; filled at the first call."""
        if self._rehearses:
            return {name: self._timed(name, rows) for name in self.parts}
        if not self._kept:
            logging.getLogger(__name__).info(self.describe())
            self.fill()
        return {name: kept[rows] for name, kept in self._kept.items()}

    def of_batch(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Features of a batch of the loader, its samples' ``row`` and where they are moved their ``position``."""
        features = self(batch["row"].tolist())
        if not self.moves:
            return features
        return {name: moved_features(each, batch["position"].to(each)) for name, each in features.items()}

    def compute(self, name: str, rows: Sequence[int]) -> Tensor:
        """What ``parts[name]`` makes of rows, (B, ...)."""
        images = torch.stack([self._every_view.image(row) for row in rows])
        return self.parts[name].compute(images)

    def _timed(self, name: str, rows: Sequence[int]) -> Tensor:
        begun = time.perf_counter()
        features = self.compute(name, rows)
        self.seconds += time.perf_counter() - begun
        self.done += len(rows)
        return features

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.knobs.cache_dtype)

    def _why_not(self) -> str:
        """Why nothing is kept; empty where something is. Chooses the place."""
        knobs, views = self.knobs, self._every_view
        if knobs.cache_frozen == "off":
            return "cache_frozen is off"
        if not self.parts:
            return "training reaches the first block of the image encoder"
        if self.moves and (fault := self._why_not_moved()):
            if knobs.cache_frozen == "on":
                raise InputError(f"cached_views: 0 moves kept features, and {fault}. Set 1 or more.")
            return fault
        if knobs.cache_frozen == "auto":
            front = self.parts.get("features")
            if not _is_fixed(knobs) and (front is None or not front.whole_trunk):
                return "slices are augmented anew each time, and much of the image encoder is trained"
            # In an epoch of few slices each is drawn several times.
            draws = knobs.epochs * max(1, knobs.min_steps * knobs.batch_size / len(views.slices))
            if draws <= views.count:
                epochs, shown = counted(knobs.epochs, "epoch"), counted(views.count, "view")
                return f"{epochs} would not pay for {shown} of each slice"
        self.place = self._choose_place()
        if self.place is not None:
            return ""
        fault = f"the frozen features, {decimal(self.bytes)}, have no room"
        if knobs.cache_frozen == "on":
            raise InputError(
                f"cached_views: {fault}. Set fewer cached_views, cache_dtype=float16, or cache_frozen=auto."
            )
        return fault

    def _why_not_moved(self) -> str:
        """Why the features of unchanged slices cannot be moved; empty where they can."""
        if self.data.slice_size is not None:
            return "the network sees tiles of the slices"
        if self.knobs.channel_dropout:  # kept features would show the images that a draw leaves out
            return "channel_dropout leaves out images anew in every draw"
        part = self.parts.get("features")
        encoder = part.segmenter.sam.image_encoder if part else None
        if part is None or len(self.parts) > 1 or part.stages < stage_count(encoder) or isinstance(encoder, Hiera):
            return "they are not one map of the whole image encoder"
        return ""

    def _choose_place(self) -> Place | None:
        wanted = self.knobs.cache_place
        if wanted in ("auto", "files") and all(self._folder(name).is_dir() for name in self.parts):
            return "files"
        return choose_place(wanted, self.bytes, self.cache, self.device)

    def _folder(self, name: str) -> Path:
        part = self.parts[name]
        description = [
            _FORMAT,
            part.sha256(),
            part.segmenter.input_scaling,
            self._every_view.sha256(),
            str(self._dtype),
            self.device.type,
        ]
        return features_folder(self.cache, hashlib.sha256(json.dumps(description).encode()).hexdigest())

    def _fill(self, name: str, progress: Progress) -> Tensor | StoredArray:
        def compute(rows: Sequence[int]) -> Tensor:
            return self.compute(name, rows)

        how = len(self._every_view), self.knobs.batch_size, compute, self._dtype
        if self.place == "files":
            return store_features(self._folder(name), *how, progress, self.data.cases.root)
        assert self.place is not None, "features have a place where they are kept"
        return hold_features(*how, self.place, progress)


def _is_fixed(knobs: Knobs) -> bool:
    """Whether a slice looks alike in every draw."""
    return knobs.augment == "none" and not knobs.channel_dropout
