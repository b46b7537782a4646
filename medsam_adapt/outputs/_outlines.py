"""The outlines of a mask on one slice as closed contours that every reader fills alike.

A hole is joined to the contour around it by a channel without width, the "keyhole" of DICOM PS3.3 C.8.8.6.3. Separate
contours for holes are read in several ways: some programs add the pixels on a hole's path to the structure, some take
them away, some fill the hole. A channel runs through pixels of the structure only, so that drawing it changes none.
"""

from __future__ import annotations

import numpy as np
from skimage.measure import find_contours

LEVEL = 0.6  # between 0 outside and 1 inside: 0.4 pixels from the centres of the pixels inside


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed contours (N, 2) in pixels, the last point joined to the first, of a mask (rows, columns).

    A contour runs nearer to the centres of the pixels inside than to those outside: half-way would be a tie for the
    programs that round contours to pixels, and the structures that they read would have grown.
    """
    lines = [line[:-1] - 1 for line in find_contours(np.pad(mask, 1).astype(np.uint8), LEVEL)]
    areas = [_area(line) for line in lines]
    outer = [line for line, area in zip(lines, areas, strict=True) if area < 0]
    holes = [line for line, area in zip(lines, areas, strict=True) if area > 0]
    for hole in sorted(holes, key=lambda line: line[:, 0].min()):  # from the top: what lies above is joined already
        _join(hole, outer)
    return outer


def _area(line: np.ndarray) -> float:
    """Twice the signed area: `find_contours` draws holes the other way round."""
    (x, y), (u, v) = line.T, np.roll(line, -1, axis=0).T
    return float(np.sum(x * v - u * y))


def _join(hole: np.ndarray, outer: list[np.ndarray]) -> None:
    """Join a hole to the contour that lies next above its highest point, in the same column."""
    top = int(hole[:, 0].argmin())
    row, column = hole[top]
    best = max(
        (
            (float(line[at, 0]), index, int(at))
            for index, line in enumerate(outer)
            for at in np.flatnonzero((line[:, 1] == column) & (line[:, 0] < row))
        ),
    )
    _, index, at = best
    line = outer[index]
    around = np.roll(hole, -top, axis=0)
    outer[index] = np.concatenate([line[: at + 1], around, around[:1], line[at:]])
