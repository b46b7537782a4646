"""Random changes of training slices, by MONAI's transforms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    OneOf,
    Rand2DElasticd,
    RandAdjustContrastd,
    RandAffined,
    RandAxisFlipd,
    RandBiasFieldd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    Randomizable,
    RandRotate90d,
    RandScaleIntensityd,
    RandSimulateLowResolutiond,
    Transform,
)

from medsam_adapt.config import Augmentation

_MOVED = ("image", "label", "position", "coordinates")  # alike; what a sample has of them
_MODES = ("bilinear", "nearest", "bilinear", "bilinear")


def augmentations(augment: Augmentation, image_size: int, images: int = 1) -> list[Transform]:
    """The random changes of a slice and its label that ``augment`` names, see `training_transforms`.

    Args:
        augment: which changes.
        image_size: side of the square in pixels.
        images: of a case: grey levels of each are changed by themselves.
    """
    if augment == "none":
        return []
    if augment == "strong":
        return [strong_augmentation(image_size, images)]
    both = _MOVED
    turns: list[Transform] = []
    if augment == "free":
        turns = [
            RandAxisFlipd(both, prob=0.5, allow_missing_keys=True),
            RandRotate90d(both, prob=0.5, allow_missing_keys=True),
        ]
    return [
        *turns,
        RandAffined(
            both,
            prob=0.75,
            rotate_range=float(np.deg2rad(15)),
            scale_range=(0.1, 0.1),
            translate_range=0.05 * image_size,
            mode=_MODES,
            padding_mode="zeros",
            allow_missing_keys=True,
        ),
        *of_each_image(
            [
                RandScaleIntensityd("image", factors=0.1, prob=0.5, allow_missing_keys=True),
                RandAdjustContrastd("image", gamma=(0.8, 1.25), prob=0.3, allow_missing_keys=True),
                RandGaussianNoised("image", std=6.0, prob=0.3, allow_missing_keys=True),
            ],
            images,
        ),
    ]


def strong_augmentation(image_size: int, images: int = 1) -> OneStream:
    """What few labelled patients need: shapes, contrasts, sharpness and illumination that other patients may have.

    Left stays left and up stays up. One resampling moves, turns, scales and bends a slice; each further change is
    rare, so that most slices look as a scanner gives them.

    Args:
        image_size: side of the square in pixels, to which shifts and bends are proportional.
        images: of a case: grey levels of each are changed by themselves.
    """
    both, modes = _MOVED, _MODES
    turn, scale, shift = float(np.deg2rad(20)), (0.2, 0.2), 0.05 * image_size
    move: dict[str, Any] = {"rotate_range": turn, "scale_range": scale, "translate_range": shift}
    bend: dict[str, Any] = {"spacing": (image_size / 5,) * 2, "magnitude_range": (0.0, 0.02 * image_size)}
    rest: dict[str, Any] = {"mode": modes, "padding_mode": "zeros", "allow_missing_keys": True, "prob": 0.6}
    spatial = OneOf([RandAffined(both, **move, **rest), Rand2DElasticd(both, **bend, **move, **rest)], (0.7, 0.3))
    image: dict[str, Any] = {"keys": "image", "allow_missing_keys": True}
    levels: list[Transform] = [
        RandScaleIntensityd(factors=0.25, prob=0.3, **image),
        RandAdjustContrastd(gamma=(0.7, 1.5), prob=0.3, **image),
        RandBiasFieldd(degree=2, coeff_range=(0.0, 0.15), prob=0.15, **image),
        RandSimulateLowResolutiond(zoom_range=(0.5, 1.0), upsample_mode="bilinear", prob=0.15, **image),
        RandGaussianSmoothd(sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0), prob=0.1, **image),
        RandGaussianNoised(std=12.0, prob=0.2, **image),
    ]
    return OneStream([spatial, *of_each_image(levels, images)])


def of_each_image(changes: list[Transform], images: int) -> list[Transform]:
    """``changes`` of grey levels, drawn anew for each image of a case where there are several."""
    return changes if images <= 1 else [EachImaged(changes, images)]


class EachImaged(Compose):
    """Changes of grey levels drawn anew for each image of a case: noise, shading and contrast differ between sequences.

    Args:
        changes: of an image (1, h, w).
        images: how many a case has; of two, the third colour is their mean.
    """

    def __init__(self, changes: list[Transform], images: int) -> None:
        super().__init__(changes)
        self.images = images

    def __call__(self, input_: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        if "image" not in input_:
            return dict(input_)
        image = torch.as_tensor(input_["image"])
        each = [super(EachImaged, self).__call__({"image": part})["image"] for part in image[: self.images].split(1)]
        changed = [part.clamp(0, 255) for part in each]  # before their mean, as in prediction
        if self.images == 2:
            changed.append((changed[0] + changed[1]) / 2)
        return {**input_, "image": torch.cat(changed)}


class OneStream(Compose):
    """Transforms that all draw from one random stream: to seed each of theirs would take longer than what they do."""

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> OneStream:
        Randomizable.set_random_state(self, seed, state)
        for each in _randomizables(self):
            each.R = self.R
        return self


def _randomizables(value: Any) -> Iterator[Randomizable]:
    """``value`` and all transforms inside it that draw at random."""
    if isinstance(value, Randomizable):
        yield value
    if isinstance(value, Transform):
        yield from _randomizables(list(vars(value).values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _randomizables(item)
