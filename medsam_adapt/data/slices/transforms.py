"""MONAI dictionary transforms of slices: from a stored slice to what the network takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, Randomizable, Transform

from medsam_adapt.config import Augmentation, Channels, InputScaling, PromptMode
from medsam_adapt.data.prompts.simulated import simulate_prompt
from medsam_adapt.data.slices.augmentation import augmentations
from medsam_adapt.data.slices.padding import pad_image, pad_label
from medsam_adapt.data.slices.slice_store import StoredCase
from medsam_adapt.data.volumes.label_coding import IGNORED

_SHIFT = 0.2  # of coordinates, and of their scale: at most
_SHOWING_A_CLASS = 2 / 3  # of the tiles that slices with labels give


class LoadStoredSliced(Transform):
    """{case, slice} -> {image (3, h, w) float32 in 0..255, label (1, h, w) int64, table}, beside what was there.

    For classes that may overlap the label holds parts, and ``table`` (P, C) lists what they are; otherwise it is None.
    Without ``images`` there is no image. With ``positions``, ``position`` (3, h, w) has column and row of each pixel's
    centre, and 1. With ``coordinates``, those are (3, h, w) as `slice_coordinates` gives them. Where some case lacks
    the annotation of some class, ``unannotated`` is (C,) bool, which of those may be here; otherwise it is None.
    """

    def __init__(
        self,
        stored: Mapping[str, StoredCase],
        channels: Channels = "repeat",
        images: bool = True,
        positions: bool = False,
        coordinates: bool = False,
    ) -> None:
        self.coordinates = coordinates
        self.stored = stored
        self.channels = channels
        self.images = images
        self.positions = positions
        self.partial = any(case.unannotated for case in stored.values())

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        case = self.stored[data["case"]]
        label = torch.from_numpy(case.labels[data["slice"]].astype(np.int64))[None]
        loaded = {**data, "label": label, "table": case.table, "unannotated": None}
        if self.partial:
            loaded |= {"table": case.table_of(data["slice"]), "unannotated": case.hidden(data["slice"])}
        if self.images:
            loaded["image"] = torch.from_numpy(case.channels(data["slice"], self.channels)).float()
        if self.positions:
            rows, columns = (torch.arange(side) + 0.5 for side in label.shape[-2:])
            row, column = torch.meshgrid(rows, columns, indexing="ij")
            loaded["position"] = torch.stack([column, row, torch.ones_like(row)])
        if self.coordinates:
            loaded["coordinates"] = torch.from_numpy(case.coordinates(data["slice"]))
        return loaded


class DropImagesd(Randomizable, Transform):
    """Blacken each image of a case at random, but one: a run that has seen this predicts without one of them.

    Args:
        probability: of each image.
        images: how many a case has; of two, the third colour is their mean.
    """

    def __init__(self, probability: float, images: int) -> None:
        self.probability, self.images = probability, images

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        kept = self.R.random_sample(self.images) >= self.probability
        kept[self.R.randint(self.images)] |= not kept.any()
        if "image" not in data or kept.all():
            return dict(data)
        image = torch.as_tensor(data["image"]).clone()
        image[: self.images][torch.from_numpy(~kept)] = 0
        if self.images == 2:
            image[2] = image[:2].mean(dim=0)
        return {**data, "image": image}


class CropTiled(Randomizable, Transform):
    """A random tile of slices that are larger than what the network takes; two of three show a class.

    Args:
        size: side of the tile in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        label = data["label"]
        if max(label.shape[-2:]) <= self.size:
            return dict(data)
        free = [max(0, side - self.size) for side in label.shape[-2:]]
        shown = np.setdiff1d(np.unique(label), (0, IGNORED))
        if shown.size and self.R.random() < _SHOWING_A_CLASS:
            places = np.argwhere(np.asarray(label[0]) == self.R.choice(shown))
            centre = places[self.R.randint(len(places))]
            # The pixel lies anywhere in the tile's inner half, not always in its middle.
            corner = [int(c - self.R.uniform(0.25, 0.75) * self.size) for c in centre]
        else:
            corner = [self.R.randint(side + 1) for side in free]
        row, column = (min(max(0, first), last) for first, last in zip(corner, free, strict=True))
        cropped = (..., slice(row, row + self.size), slice(column, column + self.size))
        return {**data, **{key: data[key][cropped] for key in ("image", "label", "coordinates") if key in data}}


class ShiftCoordinatesd(Randomizable, Transform):
    """Shift and scale coordinates at random, as scans that begin elsewhere or show more of the body have them."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        scale, shift = (torch.from_numpy(self.R.uniform(-_SHIFT, _SHIFT, (3, 1, 1))).float() for _ in range(2))
        return {**data, "coordinates": torch.as_tensor(data["coordinates"]) * (1 + scale) + shift}


class FinishSliced(Randomizable, Transform):
    """Draw the prompt and pad to the square that the network takes.

    Parts become the masks (C, h, w) of their classes. With a prompt, the label becomes the one structure that the
    sample names. `IGNORED` pixels stay so. Where some cases lack the annotation of a class, labels of classes that
    exclude each other become `possible_classes`.
    The image is prepared for the network's input scaling by :func:`pad_image`; coordinates become further channels.
    """

    def __init__(self, image_size: int, prompt: PromptMode = "none", input_scaling: InputScaling = "sam") -> None:
        self.image_size = image_size
        self.prompt = prompt
        self.input_scaling = input_scaling

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        label = torch.from_numpy(np.asarray(data["label"], dtype=np.int64))  # augmented or not, whole numbers
        image = {}
        if "image" in data:
            levels = torch.as_tensor(data["image"]).clamp(0, 255)
            image["image"] = pad_image(levels, self.image_size, self.input_scaling)
            if "coordinates" in data:
                located = pad_label(torch.from_numpy(np.asarray(data["coordinates"])), self.image_size)
                image["image"] = torch.cat([image["image"], located])
        if "position" in data:
            image["position"] = pad_label(torch.from_numpy(np.asarray(data["position"])), self.image_size)
        if (table := data.get("table")) is not None:
            label = torch.from_numpy(table.astype(np.int64))[label[0]].permute(2, 0, 1)
        prompt: dict[str, Any] = {}
        if self.prompt != "none":
            label = _one_structure(label, data["structure"], overlapping=table is not None)
            prompt = simulate_prompt(label[0].numpy() == 1, self.prompt, self.image_size, self.R)
        label = pad_label(label, self.image_size)
        if self.prompt == "none" and table is None and data.get("unannotated") is not None:
            label = possible_classes(label[0], torch.from_numpy(data["unannotated"]))
        return {
            "case": data["case"],
            "slice": data["slice"],
            **image,
            "label": label,
            **{name: torch.from_numpy(value) for name, value in prompt.items()},
        }


def possible_classes(label: torch.Tensor, unannotated: torch.Tensor) -> torch.Tensor:
    """What each pixel may be, (C + 1, h, w) uint8, from its class (h, w): background may be a class nobody drew.

    Args:
        label: background 0, classes from 1, and `IGNORED`, which may be anything.
        unannotated: (C,) bool.
    """
    numbers = torch.arange(len(unannotated) + 1)[:, None, None]
    hidden = torch.nn.functional.pad(unannotated, (1, 0))[:, None, None]
    possible = (label == numbers) | ((label == 0) & hidden) | (label == IGNORED)
    return possible.to(torch.uint8)


def _one_structure(label: torch.Tensor, structure: int, overlapping: bool) -> torch.Tensor:
    """Mask (1, h, w) of one class, from classes (1, h, w) or masks (C, h, w)."""
    if overlapping:
        return label[structure - 1 : structure]
    return torch.where(label == IGNORED, label, (label == structure).long())


def training_transforms(
    stored: Mapping[str, StoredCase],
    image_size: int,
    prompt: PromptMode = "none",
    channels: Channels = "repeat",
    augment: Augmentation = "anatomical",
    images: bool = True,
    input_scaling: InputScaling = "sam",
    channel_dropout: float = 0.0,
    image_count: int = 1,
    positions: bool = False,
    coordinates: bool = False,
) -> Compose:
    """From {case, slice[, structure]} to a training sample.

    Args:
        stored: slices by case id.
        image_size: side of the square in pixels.
        prompt: what is simulated from the label.
        channels: the slice repeated, or between its two neighbours.
        augment: ``anatomical`` keeps left left and up up (small rotations, zooms, shifts; contrast, noise);
            ``strong`` as :func:`strong_augmentation`; ``free`` adds mirroring and quarter turns to ``anatomical``, for
            images without a side; ``none`` changes nothing.
        images: whether the sample has an image; its label is the same without it.
        input_scaling: of the network that is trained.
        channel_dropout: probability with which each of several images of a case is left out.
        image_count: images of a case.
        positions: whether the sample has the ``position`` (3, S, S) in the slice that each of its pixels comes from.
        coordinates: whether the image has three more channels: where its pixels lie in the volume.
    """
    load = LoadStoredSliced(stored, channels, images, positions, coordinates)
    finish = FinishSliced(image_size, prompt, input_scaling)
    drop = [DropImagesd(channel_dropout, image_count)] if channel_dropout and image_count > 1 else []
    changes = augmentations(augment, image_size, image_count)
    shift = [ShiftCoordinatesd()] if coordinates and augment != "none" else []
    return Compose([load, CropTiled(image_size), *changes, *drop, *shift, finish])
