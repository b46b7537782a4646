"""The patients of the phantoms: organs, bones, bowel and vessels as superquadrics, drawn from a seed.

All coordinates are millimetres in RAS: x grows towards the patient's right, y to the front (anterior), z to the head.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from nibabel.eulerangles import euler2mat

PHANTOM_CLASSES: dict[int, str] = {1: "liver", 2: "right kidney", 3: "spleen", 4: "left kidney", 5: "aorta"}
LIVER, RIGHT_KIDNEY, SPLEEN, LEFT_KIDNEY, AORTA = PHANTOM_CLASSES

Triple = Sequence[float] | np.ndarray  # along x, y and z

AIR, LUNG, FAT, DISC, BONE, CORTICAL_BONE = -1000.0, -820.0, -100.0, 80.0, 190.0, 420.0  # HU
TRUNK = np.array([135.0, 95.0])  # half width and half depth of the reference patient, mm
LONG = 1e4  # a radius (mm) along z that makes a superquadric a straight tube


@dataclass(frozen=True)
class Shape:
    """A superquadric, Σ |u_i / radius_i|^exponent ≤ 1 with u = Rᵀ (point − centre), in mm; exponent 2: an ellipsoid."""

    centre: Triple
    radii: Triple
    turn: Triple = (0.0, 0.0, 0.0)  # degrees about x, y and z
    exponent: float = 2.0

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3): the columns are the superquadric's own axes."""
        x, y, z = np.deg2rad(self.turn)
        return euler2mat(z=z, y=y, x=x)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """About how far each point (3, ...) lies outside the surface, in mm; negative inside."""
        offset = points - np.reshape(self.centre, (3, 1, 1, 1)).astype(np.float32)
        local = np.tensordot((self.rotation / self.radii).T.astype(np.float32), offset, axes=1)
        power = (np.abs(local) ** self.exponent).sum(axis=0)
        return (power ** (1 / self.exponent) - 1) * np.float32(min(self.radii))


@dataclass(frozen=True)
class Structure:
    """A tissue to paint: the union of some shapes, filled with a CT number.

    Attributes:
        shapes: the union of these is painted.
        hu: mean CT number, HU.
        label: class to write, 0 for unlabelled tissue.
        texture: standard deviation of the mottling inside, HU.
        capsule: thickness of the fat painted around it, mm, which keeps its border visible against any neighbour.
        inside: "all", "cavity" (the abdominal cavity) or "label" (only where `label` has been painted before).
    """

    shapes: tuple[Shape, ...]
    hu: float
    label: int = 0
    texture: float = 4.0
    capsule: float = 0.0
    inside: str = "cavity"


@dataclass(frozen=True)
class Patient:
    """Everything drawn about one patient's anatomy; `scale` (3,) turns reference millimetres into the patient's."""

    scale: np.ndarray
    cavity: Shape
    structures: tuple[Structure, ...]
    waves: np.ndarray  # (K, 3, 5): per wave and axis, the wave vector (radians per mm), the phase, the amplitude (mm)


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient's size, organs, contrast phase and deformation."""
    enhancement = rng.uniform(0.25, 1.0)  # how much contrast agent has arrived, the same for all organs
    fat, wall = rng.uniform(8, 20), rng.uniform(9, 13)
    cavity = Shape((0, 5, 0), (*(TRUNK - fat - wall - (0, 4)), LONG), exponent=2.4)
    muscle = rng.uniform(45, 65)
    trunk = (
        Structure((Shape((0, 0, 0), (*TRUNK, LONG), exponent=2.3),), FAT, inside="all"),
        Structure((Shape((0, 0, 0), (*(TRUNK - fat), LONG), exponent=2.3),), muscle, texture=8, inside="all"),
        Structure((cavity,), FAT, texture=8, inside="all"),
    )
    structures = (
        *trunk,
        *_ribs(np.add(cavity.radii[:2], wall / 2)),
        *_lungs(),
        *_bowel(rng, enhancement),
        *_stomach(rng),
        *_solid_organs(rng, enhancement),
        *_spine(rng, muscle),
        *_great_vessels(rng, enhancement),
    )
    return Patient(rng.uniform(0.9, 1.1, 3), cavity, structures, _draw_waves(rng))


def _vary(
    rng: np.random.Generator, shape: Shape, *, shift: float = 5.0, resize: float = 0.1, turn: float = 10
) -> Shape:
    """The shape of another patient: centre moved by up to `shift` mm, radii by a share, turned by up to `turn`°."""
    return replace(
        shape,
        centre=np.add(shape.centre, rng.uniform(-shift, shift, 3)),
        radii=np.multiply(shape.radii, rng.uniform(1 - resize, 1 + resize, 3)),
        turn=np.add(shape.turn, rng.uniform(-turn, turn, 3)),
    )


def _ribs(midline: np.ndarray) -> Iterator[Structure]:
    """Pieces of the lower ribs along the middle of the trunk wall, an ellipse with these two radii (mm)."""
    for side, height, angle in itertools.product((1, -1), (10, 36, 62), (25, 50, 75, 100, 125)):
        along = np.deg2rad(angle)
        centre = (side * midline[0] * np.sin(along), 5 - midline[1] * np.cos(along), height - 0.2 * angle + 12)
        piece = Shape(centre, (14, 4, 5.5), turn=(0, side * 12, side * angle))
        yield Structure((piece,), CORTICAL_BONE, texture=40, inside="all")


def _lungs() -> Iterator[Structure]:
    """The bases of both lungs, behind the domes of liver and spleen."""
    for side in (1, -1):
        yield Structure((Shape((side * 66, -28, 95), (50, 52, 48)),), LUNG, texture=25)


def _bowel(rng: np.random.Generator, enhancement: float) -> Iterator[Structure]:
    """Mesenteric vessels, and loops filled with fluid, food, oral contrast or gas: the organs' HU, all unlabelled."""
    for _ in range(8):
        vessel = Shape(rng.uniform((-60, 0, -60), (60, 45, 30)), (5, 5, 28), rng.uniform(-90, 90, 3))
        yield Structure((vessel,), _blood_hu(enhancement) + rng.uniform(-25, 10), capsule=2)
    for _ in range(rng.integers(22, 32)):
        centre = rng.uniform((-95, -20, -80), (95, 60, 15))
        loop = Shape(centre, rng.uniform((9, 9, 14), (17, 17, 38)), rng.uniform(-90, 90, 3))
        lumen = replace(loop, radii=np.subtract(loop.radii, 3.5))
        content = rng.choice([rng.uniform(10, 40), rng.uniform(60, 120), rng.uniform(120, 220), -850.0])
        yield Structure((loop,), 60 + 50 * enhancement, texture=8, capsule=2)
        yield Structure((lumen,), content, texture=12)


def _stomach(rng: np.random.Generator) -> Iterator[Structure]:
    """Wall, fluid or food, and the gas that rises to the front of a patient who lies on the back."""
    wall = _vary(rng, Shape((-52, 34, 28), (38, 28, 36), turn=(0, 0, 25)))
    fluid = replace(wall, radii=np.subtract(wall.radii, 5))
    gas = Shape(np.add(wall.centre, (0, 17, 0)), np.multiply(fluid.radii, (0.6, 0.35, 0.7)), wall.turn)
    yield Structure((wall,), rng.uniform(60, 90), texture=8, capsule=3)
    yield Structure((fluid,), rng.uniform(5, 110), texture=14)
    yield Structure((gas,), -900)


def _solid_organs(rng: np.random.Generator, enhancement: float) -> Iterator[Structure]:
    """Pancreas and gallbladder (unlabelled), liver, spleen and both kidneys."""
    pancreas = _vary(rng, Shape((-15, 12, -5), (50, 11, 12), turn=(0, 20, -15)))
    yield Structure((pancreas,), 50 + 60 * enhancement, texture=12, capsule=3)

    liver_hu = 65 + 50 * enhancement + rng.uniform(-15, 15)
    right_lobe = _vary(rng, Shape((66, 4, 22), (54, 66, 62), exponent=2.3))
    left_lobe = _vary(rng, Shape((12, 38, 34), (58, 27, 30), turn=(0, 0, 10)))
    yield Structure((right_lobe, left_lobe), liver_hu, LIVER, texture=7, capsule=4)
    for _ in range(4):
        vein = Shape(rng.uniform((25, -10, 10), (70, 25, 45)), (4.5, 4.5, 45), rng.uniform(-90, 90, 3))
        yield Structure((vein,), liver_hu + 40 * enhancement, LIVER, inside="label")
    gallbladder = _vary(rng, Shape((42, 44, -22), (14, 19, 19)))
    yield Structure((gallbladder,), rng.uniform(0, 25), capsule=3)

    spleen = _vary(rng, Shape((-88, -26, 24), (25, 44, 44), turn=(0, 0, -25)))
    yield Structure((spleen,), 60 + 65 * enhancement + rng.uniform(-12, 12), SPLEEN, texture=9, capsule=4)
    for side, label in ((1, RIGHT_KIDNEY), (-1, LEFT_KIDNEY)):
        yield from _kidney(rng, enhancement, side, label)


def _kidney(rng: np.random.Generator, enhancement: float, side: int, label: int) -> Iterator[Structure]:
    """Cortex, darker medulla and, towards the spine, the unlabelled fat of the sinus; `side` is 1 on the right."""
    hu = 75 + 110 * enhancement + rng.uniform(-15, 15)
    low = -26 if side > 0 else -16  # the liver pushes the right kidney down
    outline = _vary(rng, Shape((side * 64, -37, low), (26, 27, 48), turn=(0, side * -10, side * 25)))
    medulla = replace(outline, radii=np.multiply(outline.radii, 0.62))
    sinus = replace(outline, centre=np.add(outline.centre, (-side * 19, 8, 0)), radii=(11, 8, 17))
    yield Structure((outline,), hu, label, texture=7, capsule=4)
    yield Structure((medulla,), hu - rng.uniform(10, 40), label, texture=7)
    yield Structure((sinus,), FAT + 30)


def _spine(rng: np.random.Generator, muscle: float) -> Iterator[Structure]:
    """Vertebrae, discs, canal and processes, with the psoas and back muscles at their sides."""
    for side in (1, -1):
        psoas = _vary(rng, Shape((side * 33, -44, -55), (14, 15, 60)), shift=2)
        yield Structure((psoas,), muscle, texture=8, capsule=2)
        back_muscle = Shape((side * 30, -70, 0), (27, 15, LONG))
        yield Structure((back_muscle,), muscle, texture=8, inside="all")
    yield Structure((Shape((0, -46, 0), (20, 16, LONG)),), DISC, inside="all")
    first = rng.uniform(-17, 17)
    for height in np.arange(-102, 103, 34) + first:
        yield Structure((Shape((0, -46, height), (21, 17, 14), exponent=4),), CORTICAL_BONE, inside="all")
        yield Structure((Shape((0, -46, height), (18, 14, 12), exponent=4),), BONE, texture=20, inside="all")
        yield Structure((Shape((0, -76, height - 6), (4, 14, 9)),), CORTICAL_BONE, inside="all")
        yield Structure((Shape((0, -68, height), (36, 4, 6)),), CORTICAL_BONE, inside="all")
    yield Structure((Shape((0, -67, 0), (9, 7, LONG)),), 30, inside="all")


def _blood_hu(enhancement: float) -> float:
    return 75 + 135 * enhancement


def _great_vessels(rng: np.random.Generator, enhancement: float) -> Iterator[Structure]:
    """The inferior vena cava, nearly as bright as the aorta and unlabelled, and the aorta on its left."""
    blood = _blood_hu(enhancement)
    cava = _vary(rng, Shape((27, -18, 0), (13, 10, LONG)), shift=4, turn=2)
    yield Structure((cava,), blood * rng.uniform(0.6, 1.0), capsule=3)
    aorta = _vary(rng, Shape((-12, -14, 0), (14.5, 14.5, LONG)), shift=3, resize=0.08, turn=2)
    yield Structure((aorta,), blood + rng.uniform(-10, 15), AORTA, capsule=3)


def _draw_waves(rng: np.random.Generator, count: int = 4, amplitude: float = 3.0) -> np.ndarray:
    """Sine waves 90 to 250 mm long which together move each point of the patient by some millimetres: (count, 3, 5)."""
    direction = rng.normal(size=(count, 3, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    vectors = direction * 2 * np.pi / rng.uniform(90, 250, (count, 3, 1))
    phases = rng.uniform(0, 2 * np.pi, (count, 3, 1))
    return np.concatenate([vectors, phases, rng.uniform(0.3, 1, (count, 3, 1)) * amplitude], axis=-1)
