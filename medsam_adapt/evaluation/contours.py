"""Outlines of masks as chain codes: the position of the first point, then one digit for each step.

The outline of a mask runs halfway between the centres of pixels inside and outside, so that in half pixels it goes
(±1, ±1) around a corner and (±2, 0) or (0, ±2) along an edge: eight steps, the digits 0 to 7. ``page.js`` draws them.
"""

from __future__ import annotations

import numpy as np

# (columns, rows) in half pixels; the digit of a step is its index. page.js has the same list.
STEPS = ((2, 0), (1, 1), (0, 2), (-1, 1), (-2, 0), (-1, -1), (0, -2), (1, -1))
_DIGITS = np.zeros((5, 5), np.uint8)  # by step + 2
for _digit, (_across, _down) in enumerate(STEPS):
    _DIGITS[_across + 2, _down + 2] = ord(str(_digit))


def outline(mask: np.ndarray) -> str:
    """All outlines of a mask, ``x,y,digits`` each, joined by semicolons; empty for an empty mask.

    Args:
        mask: (rows, columns) bool.

    Returns:
        x and y in half pixels from the centre of the first pixel.
    """
    from skimage.measure import find_contours  # slow to import, and a report that reads outlines needs none

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return ""
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    around = np.pad(box, 1).astype(np.float32)  # an outline closes at the border of the image too
    corner = 2 * np.array([columns[0] - 1, rows[0] - 1])
    return ";".join(
        _chain(np.rint(2 * line[:, ::-1]).astype(int) + corner) for line in find_contours(around, level=0.5)
    )


def _chain(points: np.ndarray) -> str:
    """A closed line (N, 2) of half pixels (x, y) as text."""
    across, down = (np.diff(points, axis=0) + 2).T
    return f"{points[0, 0]},{points[0, 1]},{_DIGITS[across, down].tobytes().decode()}"


def points_of(outlines: str) -> list[np.ndarray]:
    """Parse the result of `outline` into points (N, 2) in pixels (x, y) from the left upper corner of the image."""
    found = []
    for line in filter(None, outlines.split(";")):
        x, y, digits = line.split(",")
        steps = np.array([STEPS[int(digit)] for digit in digits]).reshape(-1, 2)
        found.append(np.vstack([[0, 0], np.cumsum(steps, axis=0)]) / 2 + (int(x) / 2 + 0.5, int(y) / 2 + 0.5))
    return found


def path_data(outlines: str) -> str:
    """Convert the result of `outline` to the ``d`` attribute of an SVG path."""
    lines = (" ".join(f"{x:g},{y:g}" for x, y in points[:-1]) for points in points_of(outlines))
    return "".join(f"M{line}Z" for line in lines)
