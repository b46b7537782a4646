"""Random outlines as implicit functions: negative inside, positive outside, in pixels and roughly a distance."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]  # u, v in pixels right of and below the centre -> distance


class Outline(NamedTuple):
    """One shape around the origin.

    Attributes:
        field: distance to the outline in pixels, negative inside.
        reach: the shape lies within this many pixels of the origin in either direction; it is painted no farther,
            which cuts the tips off the sharpest of triangles.
    """

    field: Field
    reach: float


def superellipse(rng: np.random.Generator, radius: float, stretch: float = 1.2) -> Outline:
    """|u/a|^p + |v/b|^p = 1, turned: from a diamond over ellipses to nearly a rectangle."""
    ratio, power, angle = np.exp(rng.uniform(0, stretch) / 2), rng.choice([1.4, 2, 2, 2, 3, 5]), rng.uniform(0, np.pi)
    a, b = radius * ratio, radius / ratio
    cosine, sine = np.cos(angle), np.sin(angle)

    def field(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        along, across = np.abs(cosine * u + sine * v) / a, np.abs(cosine * v - sine * u) / b
        norm = np.hypot(along, across) if power == 2 else (along**power + across**power) ** (1 / power)
        return (norm - 1) * b

    return Outline(field, 1.4 * a)


def star(rng: np.random.Generator, radius: float) -> Outline:
    """A closed curve whose radius is a random Fourier series of the angle: lobes and bays."""
    orders = np.arange(1, 7)
    amplitudes = rng.uniform(0.2, 1) * rng.normal(size=6) * 0.45 / orders
    phases = rng.uniform(0, 2 * np.pi, 6)
    angles = np.linspace(-np.pi, np.pi, 97)
    radii = 1 + (amplitudes[:, None] * np.cos(orders[:, None] * angles + phases[:, None])).sum(axis=0)
    radii = radius * np.clip(radii, 0.2, 2.2)
    return Outline(lambda u, v: np.hypot(u, v) - np.interp(np.arctan2(v, u), angles, radii), radii.max() + 1)


def polygon(rng: np.random.Generator, radius: float) -> Outline:
    """A convex polygon of three to seven sides: the half-planes that it lies in."""
    count = rng.integers(3, 8)
    angles = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count + rng.uniform(0, np.pi)
    offsets = radius * rng.uniform(0.6, 1.1, count)

    def field(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        sides = [np.cos(t) * u + np.sin(t) * v - c for t, c in zip(angles, offsets, strict=True)]
        return np.maximum.reduce(sides)

    return Outline(field, 2.5 * radius)


def crescent(rng: np.random.Generator, radius: float) -> Outline:
    """An ellipse out of which another one has bitten."""
    whole, bite = superellipse(rng, radius, 0.8), superellipse(rng, radius * rng.uniform(0.6, 1.1), 0.8)
    angle, shift = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.5, 1.0)
    du, dv = shift * np.cos(angle), shift * np.sin(angle)
    return Outline(lambda u, v: np.maximum(whole.field(u, v), -bite.field(u - du, v - dv)), whole.reach)


def arc(rng: np.random.Generator, radius: float, thickness: float | None = None) -> Outline:
    """A piece of a ring: letters C and U, ribs, thin curved sheets; sometimes the whole ring."""
    half = radius * (thickness or rng.uniform(0.06, 0.4))
    span = np.pi + 1 if thickness is None and rng.random() < 0.15 else rng.uniform(0.3, 2.8)
    angle, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1)
    cosine, sine = np.cos(angle), np.sin(angle)
    centre = radius * np.sinc(min(span, np.pi) / np.pi)  # of gravity, so that the piece lies around the origin

    def field(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        along, across = cosine * u + sine * v + centre, (cosine * v - sine * u) / squeeze
        return np.maximum(
            np.abs(np.hypot(along, across) - radius) - half, (np.abs(np.arctan2(across, along)) - span) * radius
        )

    return Outline(field, 2 * radius + half)


def tube(rng: np.random.Generator, radius: float, half_width: float | None = None) -> Outline:
    """A vessel or a loop of bowel: a winding line, thickness varying, with up to two branches."""
    half_width = half_width or max(1.0, radius * rng.uniform(0.1, 0.35))
    start, discs = np.zeros(3), []
    for _ in range(1 + rng.choice(3, p=[0.6, 0.3, 0.1])):
        turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.45, 9) + rng.normal(0, 0.25))
        steps = np.stack([np.cos(turns), np.sin(turns)], 1) * radius / 5
        widths = half_width * (1 + 0.15 * np.cumsum(rng.normal(0, 0.5, 9))).clip(0.5, 1.5)
        path = np.concatenate([start[:2] + np.cumsum(steps, axis=0), widths[:, None]], 1)
        discs.append(path)
        start = path[rng.integers(9)]
    centres = np.concatenate(discs)
    centres[:, :2] -= centres[:, :2].mean(axis=0)
    first, last = (
        np.concatenate([path[part] for path in np.split(centres, len(discs))]) for part in (slice(-1), slice(1, None))
    )

    def field(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        distance = np.full(np.broadcast(u, v).shape, np.inf, np.float32)
        for (u0, v0, w0), (u1, v1, w1) in zip(first, last, strict=True):
            du, dv = u1 - u0, v1 - v0
            t = np.clip(((u - u0) * du + (v - v0) * dv) / (du * du + dv * dv), 0, 1)
            np.minimum(distance, np.hypot(u - u0 - t * du, v - v0 - t * dv) - w0 - t * (w1 - w0), out=distance)
        return distance

    return Outline(field, float(np.hypot(*centres[:, :2].T).max() + 1.6 * half_width))


def pieces(rng: np.random.Generator, radius: float) -> Outline:
    """Two or three blobs that belong together."""
    parts = [
        (star if rng.random() < 0.5 else superellipse)(rng, radius * rng.uniform(0.3, 0.6))
        for _ in range(rng.integers(2, 4))
    ]
    angles = rng.uniform(0, 2 * np.pi) + np.arange(len(parts)) * 2 * np.pi / len(parts) + rng.uniform(-0.5, 0.5)
    shifts = radius * rng.uniform(0.5, 1.0) * np.stack([np.cos(angles), np.sin(angles)], 1)

    def field(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.minimum.reduce([part.field(u - du, v - dv) for part, (du, dv) in zip(parts, shifts, strict=True)])

    return Outline(field, max(part.reach for part in parts) + radius)


def winged(rng: np.random.Generator, radius: float) -> Outline:
    """A block with two side arms and one behind, as a vertebra is."""
    body, wing, tail = radius * rng.uniform(0.45, 0.6), radius * rng.uniform(0.7, 1.2), radius * rng.uniform(0.6, 1.2)
    thick, drop = radius * rng.uniform(0.1, 0.2), radius * rng.uniform(0.5, 0.7)
    hole, sign = radius * rng.uniform(0.15, 0.3), rng.choice([-1, 1, 1, 1])

    def field(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        v = sign * v + radius * 0.3
        block = (((np.abs(u) / 1.15) ** 3 + np.abs(v) ** 3) ** (1 / 3)) - body
        arch = np.abs(np.hypot(u, v - drop - hole) - hole - thick / 2) - thick
        wings = np.maximum(
            np.abs(v - drop - hole - 0.15 * np.abs(u)) - thick, np.maximum(np.abs(u) - wing, hole - np.abs(u))
        )
        spine = np.maximum(np.abs(u) - thick, np.abs(v - drop - 2 * hole - tail / 2) - tail / 2)
        return np.minimum.reduce([block, arch, wings, spine])

    return Outline(field, 2.8 * radius)


_BY_FREQUENCY = (
    (superellipse, 0.34),
    (star, 0.22),
    (polygon, 0.05),
    (crescent, 0.09),
    (arc, 0.09),
    (tube, 0.09),
    (pieces, 0.08),
    (winged, 0.04),
)


def any_shape(rng: np.random.Generator, radius: float) -> Outline:
    """One of the shapes above, about ``radius`` pixels in radius, its outline wavy or not."""
    makers, shares = zip(*_BY_FREQUENCY, strict=True)
    outline = makers[rng.choice(len(makers), p=np.array(shares) / sum(shares))](rng, radius)
    return wavy(rng, outline, radius) if rng.random() < 0.5 else outline


def wavy(rng: np.random.Generator, outline: Outline, radius: float) -> Outline:
    """The outline with three sine waves added to its distance."""
    waves = rng.normal(size=(3, 2)) * rng.uniform(1.5, 5) / radius
    phases, amplitudes = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0, 0.13, 3) * radius

    def field(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        distance = outline.field(u, v)
        for (wu, wv), phase, amplitude in zip(waves, phases, amplitudes, strict=True):
            distance = distance + amplitude * np.sin(wu * u + wv * v + phase)
        return distance

    return Outline(field, outline.reach + amplitudes.sum())


def mirror(outline: Outline) -> Outline:
    """The outline with left and right exchanged."""
    return Outline(lambda u, v: outline.field(-u, v), outline.reach)


def smooth_field(rng: np.random.Generator, size: int, length: float) -> np.ndarray:
    """A random field (size, size), float32, of zero mean and unit variance that changes over ``length`` pixels.

    A cosine series with Gaussian weights: for fields smoother than about two pixels far cheaper than a filter.
    """
    count = int(min(size, max(3, np.ceil(1.2 * size / length))))
    weights = np.exp(-0.5 * (np.arange(count) * length * 1.5 / size) ** 2)
    coefficients = rng.standard_normal((count, count)) * np.outer(weights, weights)
    coefficients[0, 0] = 0
    basis = _cosines(size, count)
    field = basis @ coefficients.astype(np.float32) @ basis.T
    return field / (field.std() + 1e-6)


@cache
def _cosines(size: int, count: int) -> np.ndarray:
    return np.cos(np.pi * (np.arange(size)[:, None] + 0.5) * np.arange(count) / size).astype(np.float32)
