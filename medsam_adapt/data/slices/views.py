"""The fixed versions of the training slices whose features are kept, so that frozen work is done once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.transforms import Compose
from torch import Tensor

from medsam_adapt.config import Augmentation, Channels, InputScaling
from medsam_adapt.data.slices.transforms import training_transforms

if TYPE_CHECKING:
    from medsam_adapt.data.slices.slice_store import StoredCase


class Views:
    """``count`` versions of every slice, in rows: those of slice i are rows i · count to (i + 1) · count - 1.

    A version is one draw of the augmentation, decided by ``seed`` and its row. Prompts are no part of it.

    Args:
        stored: slices by case id.
        samples: {case, slice, …} of all training samples; several may be of one slice.
        image_size: side of the square in pixels.
        channels: what SAM's three colour channels hold.
        augment: as for `training_transforms`.
        count: versions of a slice.
        seed: of the augmentation.
        images: whether the samples of a training carry images beside the row of their features.
        input_scaling: of the network that is trained.
        channel_dropout, image_count: as for `training_transforms`.
        moved: whether the one version of a slice is the unchanged one, and samples, augmented anew in every draw, have
            the ``position`` that each of their pixels comes from.
    """

    def __init__(
        self,
        stored: Mapping[str, StoredCase],
        samples: Sequence[Mapping[str, Any]],
        image_size: int,
        channels: Channels,
        augment: Augmentation,
        count: int = 1,
        seed: int = 0,
        images: bool = True,
        input_scaling: InputScaling = "sam",
        channel_dropout: float = 0.0,
        image_count: int = 1,
        moved: bool = False,
    ) -> None:
        self.moved = moved
        if moved:
            count, augment, channel_dropout = 1, "none", 0.0
        self.slices = sorted({(sample["case"], sample["slice"]) for sample in samples})
        self.count, self.seed, self.images = count, seed, images
        self._first_row = {place: index * count for index, place in enumerate(self.slices)}
        self._transform = training_transforms(
            stored,
            image_size,
            "none",
            channels,
            augment,
            input_scaling=input_scaling,
            channel_dropout=channel_dropout,
            image_count=image_count,
        )
        self._settings = {
            "image_size": image_size,
            "channels": channels,
            "augment": augment,
            "input_scaling": input_scaling,
            **({"channel_dropout": channel_dropout} if channel_dropout else {}),
        }
        self._contents = {case: stored[case].images.path.parent.name for case, _ in self.slices}

    def __len__(self) -> int:
        return len(self.slices) * self.count

    def row(self, sample: Mapping[str, Any], draw: int) -> int:
        """The row that a random number ``draw`` picks for a sample."""
        return self._first_row[sample["case"], sample["slice"]] + draw % self.count

    def fix(self, transform: Compose, row: int) -> None:
        """Make the augmentation of ``transform`` that of a row; its last step, the prompt's, draws as it would have."""
        prompt: Any = transform.transforms[-1]
        drawn = prompt.R.get_state()
        transform.set_random_state(seed=int(np.random.default_rng([self.seed, row]).integers(2**32)))
        prompt.R.set_state(drawn)

    def image(self, row: int) -> Tensor:
        """The image (3, S, S) of a row, on the 0-255 scale."""
        case, index = self.slices[row // self.count]
        self.fix(self._transform, row)
        return self._transform({"case": case, "slice": index})["image"]

    def sha256(self) -> str:
        """Of everything that decides the images: files, preprocessing, slices, augmentation."""
        slices = [(self._contents[case], index) for case, index in self.slices]
        is_drawn = self._settings["augment"] != "none" or "channel_dropout" in self._settings
        drawn = (self.count, self.seed) if is_drawn else None
        return hashlib.sha256(json.dumps([self._settings, slices, drawn]).encode()).hexdigest()
