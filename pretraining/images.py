"""Endless synthetic images with masks of their parts: the training set of ``sam_nano``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from medsam_adapt.weights.backbones import PIXEL_MEAN
from pretraining.bodies import body
from pretraining.scenes import SIZE, Palette, Scene, clutter
from pretraining.shapes import smooth_field

SMALLEST_PART = 12  # pixels
LARGEST_SHARE = 0.5  # of the picture
_COLOUR_SHARE = 0.12


class Sample(NamedTuple):
    """One image and some of its parts.

    Attributes:
        image: (3, 128, 128) uint8, padded right and bottom with SAM's mean colour.
        masks: (K, 128, 128) bool, each of at least 12 pixels.
    """

    image: np.ndarray
    masks: np.ndarray


def make_sample(seed: int, index: int, masks: int) -> Sample:
    """Sample ``index`` of the endless set ``seed``: bit-identical on every call.

    Args:
        seed: names the set, any integer ≥ 0.
        index: place in the set, any integer ≥ 0.
        masks: how many parts to give; when the picture has fewer, some are given twice.
    """
    rng = np.random.default_rng([seed, index])
    while True:  # a picture without any part of a fair size is rare, and drawn anew
        scene = _draw_scene(rng)
        found = _fair_masks(scene)
        if found:
            break
    # Small parts outnumber large ones: weighted by a root of the area, both are met.
    weights = np.array([mask.sum() for mask in found], dtype=float) ** 0.15
    chosen = rng.choice(len(found), masks, replace=len(found) < masks, p=weights / weights.sum())
    return Sample(_photograph(scene), np.stack([found[index] for index in chosen]))


def _draw_scene(rng: np.random.Generator) -> Scene:
    short = int(rng.integers(76, SIZE)) if rng.random() < 0.7 else SIZE
    height, width = (short, SIZE) if rng.random() < 0.75 else (SIZE, short)
    scene = Scene(rng, Palette(rng, 3 if rng.random() < _COLOUR_SHARE else 1), height, width)
    clutter(scene) if scene.palette.channels == 3 or rng.random() < 0.25 else body(scene)
    scene.numbers[height:], scene.numbers[:, width:] = 0, 0
    return scene


def _fair_masks(scene: Scene) -> list[np.ndarray]:
    largest = LARGEST_SHARE * scene.height * scene.width
    cleaned = [_without_crumbs(mask) for mask in scene.masks() if mask.sum() >= SMALLEST_PART]
    return [mask for mask in cleaned if SMALLEST_PART <= mask.sum() <= largest]


def _without_crumbs(mask: np.ndarray) -> np.ndarray:
    """The mask without components below 8 % of its area, which later shapes have cut off."""
    components, count = ndimage.label(mask)
    if count < 2:
        return mask
    areas = np.bincount(components.ravel())
    areas[0] = 0
    return (areas >= max(4, 0.08 * areas.sum()))[components]


def _photograph(scene: Scene) -> np.ndarray:
    """What a scanner or camera makes of the picture: (3, SIZE, SIZE) uint8."""
    rng, image = scene.rng, scene.image
    sigma = rng.uniform(0.35, 1.3) if rng.random() < 0.9 else rng.uniform(1.3, 2.2)
    image = ndimage.gaussian_filter(image, (0, sigma, sigma), mode="nearest")
    if rng.random() < 0.6:  # uneven illumination, or the sensitivity of a coil
        image = image * (1 + rng.uniform(0, 0.35) * 0.5 * smooth_field(rng, SIZE, rng.uniform(40, 100)))
    if rng.random() < 0.3:
        image = 255 * np.clip(image / 255, 0, 1) ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.08:
        image = 255 - image
    image = image + _noise(rng, image.shape)
    canvas = np.repeat(image, 3, axis=0) if len(image) == 1 else image
    canvas = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    padding = np.rint(PIXEL_MEAN).astype(np.uint8)[:, None, None]
    canvas[:, scene.height :], canvas[:, :, scene.width :] = padding, padding
    return canvas


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """White noise, or noise of some pixels' grain, of 0 to 14 grey levels."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    grain = rng.uniform(0, 0.9)
    if grain > 0.3:
        noise = ndimage.gaussian_filter(noise, (0, grain, grain))
    return noise * np.float32(14 * rng.random() ** 2 / noise.std())
