"""Pictures composed of outlines, each part with a number: the canvas, tilings and clutter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pretraining.shapes import Outline, any_shape, smooth_field

SIZE = 128  # pixels: the side of sam_nano's images

Window = tuple[slice, slice]  # rows, columns
EVERYWHERE: Window = (slice(None), slice(None))

# Grey level of each tissue: lowest and highest mean of a picture, and how much single parts deviate from it.
_SOFT_TISSUE_WINDOW = {  # as a CT shows bodies
    "air": (0, 6, 1), "lung": (0, 45, 5), "fat": (20, 65, 4), "muscle": (112, 160, 5), "organ": (105, 185, 15),
    "bone": (195, 255, 14), "marrow": (145, 235, 14), "vessel": (115, 235, 12), "fluid": (85, 130, 5),
}  # fmt: skip
_RESONANCE = {  # as MR sequences show them: any order of tissues, bone without signal
    "air": (0, 14, 2), "lung": (0, 35, 4), "fat": (15, 235, 8), "muscle": (25, 130, 8), "organ": (35, 200, 22),
    "bone": (0, 90, 10), "marrow": (50, 225, 14), "vessel": (0, 255, 25), "fluid": (0, 255, 14),
}  # fmt: skip
_ANYTHING = dict.fromkeys(_RESONANCE, (0, 255, 35))


class Palette:
    """Values of tissues in one picture; parts of one tissue differ a little, or hardly at all.

    Args:
        rng: where the values are drawn from.
        channels: 1 for grey, 3 for colour.
    """

    def __init__(self, rng: np.random.Generator, channels: int) -> None:
        self.rng, self.channels = rng, channels
        styles = [_SOFT_TISSUE_WINDOW, _RESONANCE, _ANYTHING]
        self.ranges = styles[rng.choice(3, p=[0.45, 0.35, 0.2] if channels == 1 else [0, 0.1, 0.9])]
        self.means = {name: rng.uniform(low, high, channels) for name, (low, high, _) in self.ranges.items()}
        self.contrast = rng.uniform(0.3, 2)
        self.mottling = rng.uniform(0, 1) * 9

    def draw(self, tissue: str) -> np.ndarray:
        """The value (channels,) of one part."""
        deviation = self.ranges[tissue][2] * self.contrast
        return self.means[tissue] + self.rng.normal(0, deviation, self.channels)


@dataclass
class Scene:
    """A picture under construction; whatever is painted later covers what was there.

    Attributes:
        rng: where everything is drawn from.
        palette: values of tissues.
        height: rows of the picture; what lies below is padding.
        width: columns of the picture; what lies to the right is padding.
    """

    rng: np.random.Generator
    palette: Palette
    height: int
    width: int

    def __post_init__(self) -> None:
        self.image = np.zeros((self.palette.channels, SIZE, SIZE), np.float32)
        self.numbers = np.zeros((SIZE, SIZE), np.int32)  # which part each pixel shows; 0 is nothing to segment
        self.inside_of: dict[int, int] = {}  # part -> the part that it belongs to
        self.count = 0
        rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
        strength, length = self.rng.uniform(0, 4), self.rng.uniform(14, 50)
        self.x = columns + strength * smooth_field(self.rng, SIZE, length)
        self.y = rows + strength * smooth_field(self.rng, SIZE, length)
        self.slack = 3.5 * strength  # pixels by which the warp may carry a shape out of its window
        self.textures = [smooth_field(self.rng, SIZE, length) for length in (2.0, 4.0, 9.0)]

    def fill(self, tissue: str) -> None:
        """Paint the whole picture with something that is not a part."""
        self.colour(EVERYWHERE, np.ones((SIZE, SIZE), bool), self.palette.draw(tissue))

    def part(self, mask: np.ndarray, tissue: str, number: int | None = None) -> int:
        """Paint a mask (SIZE, SIZE) as a part, and return its number; a given ``number`` extends that part."""
        return self._paint(EVERYWHERE, mask, None, tissue, number)

    def shape(
        self,
        outline: Outline,
        x: float,
        y: float,
        tissue: str,
        within: np.ndarray | None = None,
        number: int | None = None,
        capsule: float = 0,
        parent: int = 0,
    ) -> int:
        """Paint an outline centred at x, y in pixels, and return its number.

        Args:
            outline: what to paint.
            x: column of its centre.
            y: row of its centre.
            tissue: what it is made of.
            within: pixels (SIZE, SIZE) that may be painted; None allows all.
            number: the part that it extends; None makes a new one.
            capsule: thickness in pixels of a layer of fat around it, which is no part.
            parent: a part that this one is inside of and, in most pictures, belongs to; 0 is none.
        """
        reach = outline.reach + self.slack + capsule + 1
        top, left = (int(np.clip(c - reach, 0, SIZE)) for c in (y, x))
        bottom, right = (int(np.clip(c + reach, 0, SIZE)) for c in (y, x))
        window = (slice(top, bottom), slice(left, right))
        if top >= bottom or left >= right:
            return 0
        distance = outline.field(self.x[window] - x, self.y[window] - y)
        allowed = True if within is None else within[window]
        if capsule:
            rim = (distance < capsule) & allowed
            self.colour(window, rim, self.palette.draw("fat"))
            self.numbers[window][rim] = 0
        number = self._paint(window, (distance < 0) & allowed, distance, tissue, number)
        if parent and self.rng.random() < 0.8:
            self.inside_of[number] = parent
        return number

    def _paint(
        self, window: Window, mask: np.ndarray, distance: np.ndarray | None, tissue: str, number: int | None
    ) -> int:
        if number is None:
            self.count += 1
            number = self.count
        self.colour(window, mask, self.palette.draw(tissue))
        self.numbers[window][mask] = number
        kind = self.rng.random()
        if distance is not None and tissue == "bone":
            self.colour(window, mask & (distance < -self.rng.uniform(0.8, 2.5)), self.palette.draw("marrow"))
        elif distance is not None and kind < 0.12:  # a wall with a different shade
            self.colour(window, mask & (distance > -self.rng.uniform(1, 3)), self.palette.draw("organ"))
        elif kind < 0.2:  # contents of other shades, which belong to it
            spots = self.textures[self.rng.integers(1, 3)][window] > self.rng.normal(0, 0.8)
            self.colour(window, mask & spots, self.palette.draw(self.rng.choice(["air", "fluid", "vessel", "organ"])))
        return number

    def colour(self, window: Window, mask: np.ndarray, value: np.ndarray) -> None:
        """Give the masked pixels of a window a value (channels,) and a texture; what they belong to stays."""
        texture = self.textures[self.rng.integers(3)][window][mask]
        strength = self.rng.random() * self.palette.mottling
        self.image[(slice(None), *window)][:, mask] = value[:, None] + strength * texture

    def masks(self) -> list[np.ndarray]:
        """A mask (SIZE, SIZE) of each part, with the parts inside of it; crumbs that others left over removed."""
        families: dict[int, list[int]] = {number: [number] for number in range(1, self.count + 1)}
        for child, parent in self.inside_of.items():
            if parent in families and child in families:
                families[parent].append(child)
        counts = np.bincount(self.numbers.ravel(), minlength=self.count + 1)
        return [np.isin(self.numbers, family) for family in families.values() if counts[family].sum()]


def tiling(scene: Scene, within: np.ndarray, count: int) -> None:
    """Parts that touch, or leave thin seams of fat: cells around random centres, in warped coordinates."""
    rng = scene.rng
    rows, columns = np.nonzero(within)
    if not rows.size:
        return
    chosen = rng.integers(rows.size, size=count)
    bend = rng.uniform(0, 7), rng.uniform(9, 40)
    x, y = (grid + bend[0] * smooth_field(rng, SIZE, bend[1]) for grid in (scene.x, scene.y))
    nearest, second = np.full((SIZE, SIZE), np.inf, np.float32), np.full((SIZE, SIZE), np.inf, np.float32)
    cell = np.zeros((SIZE, SIZE), np.int32)
    for index, (row, column) in enumerate(zip(rows[chosen], columns[chosen], strict=True)):
        distance = np.hypot(x - column, y - row) * np.float32(rng.uniform(0.7, 1.3))
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        nearest = np.where(closer, distance, nearest)
        cell[closer] = index
    apart = within & (second - nearest > rng.choice([0, rng.uniform(0, 5)]))
    for index in range(count):
        if rng.random() < 0.75:
            tissue = rng.choice(["organ", "muscle", "fluid", "lung"], p=[0.7, 0.15, 0.1, 0.05])
            scene.part(apart & (cell == index), tissue)


def clutter(scene: Scene) -> None:
    """Shapes of all kinds over each other, on a mottled ground or on a tiling."""
    rng = scene.rng
    scene.fill("organ")
    if rng.random() < 0.5:
        tiling(scene, np.ones((SIZE, SIZE), bool), int(rng.integers(3, 20)))
    for _ in range(rng.integers(3, 22)):
        size = np.exp(rng.uniform(np.log(2.5), np.log(40)))
        place = rng.uniform(0, scene.width), rng.uniform(0, scene.height)
        tissue = rng.choice(["organ", "organ", "vessel", "fluid", "bone", "fat"])
        scene.shape(any_shape(rng, size), *place, tissue, capsule=rng.choice([0, 0, 0, rng.uniform(0.5, 3)]))
