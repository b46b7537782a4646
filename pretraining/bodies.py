"""Cross-sections of bodies that never were: a wall, and in it organs, bowel, bones and vessels, placed loosely."""

from __future__ import annotations

import numpy as np

from pretraining.scenes import EVERYWHERE, Scene, tiling
from pretraining.shapes import any_shape, arc, mirror, star, superellipse, tube, wavy, winged


def body(scene: Scene) -> None:
    """A cross-section: skin and fat, a wall of muscles, and a cavity of organs, bones, vessels and bowel."""
    rng = scene.rng
    zoom = np.exp(rng.uniform(0, 0.9)) if rng.random() < 0.4 else rng.uniform(0.85, 1.08)
    half = zoom * scene.width / 2, zoom * scene.height / 2 * rng.uniform(0.8, 1)
    loose = max(0.04, zoom - 0.9) * 40
    x, y = scene.width / 2 + rng.uniform(-loose, loose), scene.height / 2 + rng.uniform(-loose, loose)
    radius = float(np.sqrt(half[0] * half[1]))
    power = rng.uniform(1.9, 3)
    u, v = (scene.x - x) / half[0], (scene.y - y) / half[1]
    depth = (1 - (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power)) * min(half)  # pixels below the skin
    fat, wall = radius * rng.uniform(0.02, 0.2), radius * rng.uniform(0.04, 0.2)
    scene.fill("air")
    whole = scene.part(depth > 0, "fat")
    if rng.random() < 0.7:
        _muscle_wall(scene, (depth > fat) & (depth < fat + wall), np.arctan2(v, u))
    cavity = depth > fat + wall
    scene.colour(EVERYWHERE, cavity, scene.palette.draw(rng.choice(["fat", "fat", "lung", "organ"])))
    scene.numbers[cavity] = 0
    if rng.random() < 0.5:  # the outline of the whole body is a fair question, but no more than one in many
        scene.numbers[scene.numbers == whole] = 0
    if rng.random() < 0.5:
        tiling(scene, cavity, int(rng.integers(3, 18)))
    wall_too = depth > fat
    for layer, chance, within in (
        (_organs, 1, cavity),
        (_bowel, 0.5, cavity),
        (_spine, 0.6, wall_too),
        (_vessels, 0.7, cavity),
        (_pairs, 0.5, wall_too),
        (_ribs, 0.6, depth > max(1.0, fat * 0.7)),
    ):
        if rng.random() < chance:
            layer(scene, x, y, radius, within)


def _muscle_wall(scene: Scene, band: np.ndarray, angle: np.ndarray) -> None:
    rng = scene.rng
    borders = np.sort(rng.uniform(-np.pi, np.pi, rng.integers(2, 10)))
    sector = np.searchsorted(borders, angle) % len(borders)
    for index in range(len(borders)):
        scene.part(band & (sector == index), "muscle")
    seams = np.abs(angle[..., None] - borders).min(axis=-1) < rng.uniform(0, 0.08)
    scene.colour(EVERYWHERE, band & seams, scene.palette.draw("fat"))
    scene.numbers[band & seams] = 0


def _organs(scene: Scene, x: float, y: float, radius: float, within: np.ndarray) -> None:
    rng = scene.rng
    for _ in range(rng.integers(2, 9)):
        size = radius * np.exp(rng.uniform(np.log(0.05), np.log(0.5)))
        place = x + rng.normal(0, 0.4) * radius, y + rng.normal(0, 0.35) * radius
        capsule = rng.choice([0, 0, rng.uniform(0.5, 3)])
        organ = scene.shape(any_shape(rng, size), *place, "organ", within, capsule=capsule)
        while rng.random() < 0.3:  # an inner part: the medulla of a kidney, a vessel of the liver
            shift = rng.normal(0, 0.35, 2) * size
            inner = star(rng, size * rng.uniform(0.15, 0.6))
            allowed = scene.numbers == organ
            scene.shape(inner, place[0] + shift[0], place[1] + shift[1], "vessel", allowed, parent=organ)


def _bowel(scene: Scene, x: float, y: float, radius: float, within: np.ndarray) -> None:
    rng = scene.rng
    together = scene.shape(tube(rng, radius * 0.3, radius * rng.uniform(0.04, 0.1)), x, y, "organ", within)
    for _ in range(rng.integers(1, 6)):
        loop = tube(rng, radius * rng.uniform(0.1, 0.35), radius * rng.uniform(0.04, 0.12))
        place = x + rng.normal(0, 0.35) * radius, y + rng.normal(0, 0.3) * radius
        number = together if rng.random() < 0.4 else None
        tissue = rng.choice(["organ", "air", "fluid"], p=[0.7, 0.15, 0.15])
        scene.shape(loop, *place, tissue, within, number, capsule=rng.choice([0, 1.5]))


def _spine(scene: Scene, x: float, y: float, radius: float, within: np.ndarray) -> None:
    rng = scene.rng
    size, below = radius * rng.uniform(0.14, 0.3), y + radius * rng.uniform(0.2, 0.6)
    for side in (-1, 1):
        muscle = wavy(rng, superellipse(rng, size * rng.uniform(0.6, 1.1)), size)
        scene.shape(muscle, x + side * size * 1.5, below + size * rng.uniform(-0.3, 1), "muscle", within, capsule=1)
    if rng.random() < 0.6:
        scene.shape(winged(rng, size), x, below, "bone", within, capsule=rng.choice([0, 1]))
    else:
        scene.shape(superellipse(rng, size * 0.7, 0.4), x, below, "bone", within)
    scene.shape(superellipse(rng, size * rng.uniform(0.15, 0.3), 0.4), x, below + size * 0.6, "fluid", within)


def _vessels(scene: Scene, x: float, y: float, radius: float, within: np.ndarray) -> None:
    rng = scene.rng
    for _ in range(rng.integers(1, 6)):
        size = max(1.6, radius * rng.uniform(0.02, 0.1))
        outline = superellipse(rng, size, 0.6) if rng.random() < 0.7 else tube(rng, radius * 0.2, size * 0.6)
        place = x + rng.normal(0, 0.25) * radius, y + rng.normal(0, 0.3) * radius
        scene.shape(outline, *place, "vessel", within, capsule=rng.choice([0, 1]))


def _pairs(scene: Scene, x: float, y: float, radius: float, within: np.ndarray) -> None:
    """Mirrored parts: hip bones, thighs, kidneys; now and then the two are one part."""
    rng = scene.rng
    for _ in range(rng.integers(1, 4)):
        outline = any_shape(rng, radius * rng.uniform(0.06, 0.3))
        tissue = rng.choice(["bone", "bone", "muscle", "organ"])
        across, up = rng.uniform(0.2, 0.75), rng.uniform(-0.4, 0.5)
        number = scene.shape(outline, x - across * radius, y + up * radius, tissue, within)
        mirrored = mirror(outline)
        same = number if number and rng.random() < 0.3 else None
        scene.shape(mirrored, x + across * radius, y + up * radius, tissue, within, same)


def _ribs(scene: Scene, x: float, y: float, radius: float, within: np.ndarray) -> None:
    rng = scene.rng
    ring = rng.uniform(0.7, 0.95)
    for angle in rng.uniform(0, 2 * np.pi, rng.integers(2, 12)):
        if rng.random() < 0.3:
            rib = arc(rng, radius * rng.uniform(0.08, 0.3), rng.uniform(0.1, 0.35))
        else:
            rib = superellipse(rng, max(1.8, radius * rng.uniform(0.03, 0.07)), 2.2)
        scene.shape(rib, x + ring * radius * np.cos(angle), y + ring * radius * np.sin(angle), "bone", within)
