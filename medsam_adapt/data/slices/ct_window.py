"""The window of a CT in which the structures that are to be learned can be distinguished from what is around them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.core.lazy import lazy_module

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = lazy_module("scipy.ndimage")

_AROUND = 2  # pixels
_SHARES = 0.5, 99.5  # percentiles of a structure and what is around it
_ROUND = 50.0  # Hounsfield units
_FEWEST = 20  # pixels, from which there is a median


def visible_window(
    volumes: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], low: float, high: float
) -> tuple[float, float]:
    """``low`` and ``high``, or a wider window where a structure and what is around it are both black or both white.

    An opacity in a lung at -500 HU is one: a window of soft tissue shows lung and opacity alike. A lung is none, since
    what is around it is no air.

    Args:
        volumes: slices (N, rows, columns) in Hounsfield units, their parts alike, and (P, C) which classes parts are.
        low, high: of the window, in Hounsfield units.
    """
    wanted = [low, high]
    for slices, parts, table in volumes:
        for column in table.T:
            inside, outside = _inside_and_around(slices, np.isin(parts, np.flatnonzero(column == 1)), low, high)
            if min(inside.size, outside.size) < _FEWEST:
                continue
            medians = np.median(inside), np.median(outside)
            both = np.concatenate([inside, outside])
            if max(medians) < low:
                wanted[0] = min(wanted[0], _ROUND * np.floor(np.percentile(both, _SHARES[0]) / _ROUND))
            if min(medians) > high:
                wanted[1] = max(wanted[1], _ROUND * np.ceil(np.percentile(both, _SHARES[1]) / _ROUND))
    return float(wanted[0]), float(wanted[1])


def _inside_and_around(slices: np.ndarray, shown: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Voxels where a class is ``shown`` and those beside it on the same slices; none where the window shows the class.

    Arguments as for `visible_window`.
    """
    inside = slices[shown]
    if not inside.size or low <= np.median(inside) <= high:
        return inside, inside[:0]
    box = [slice(max(0, np.min(each) - _AROUND), np.max(each) + _AROUND + 1) for each in np.nonzero(shown)]
    part, mask = slices[tuple(box)], shown[tuple(box)]
    in_plane = ndimage.generate_binary_structure(2, 1)[None]
    return inside, part[ndimage.binary_dilation(mask, in_plane, iterations=_AROUND) & ~mask]
