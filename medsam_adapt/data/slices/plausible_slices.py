"""In which slices a class may be that nobody annotated in a case, by the cases in which somebody did.

A structure lies at a like distance from its neighbours in every patient. Without that, each pixel of a case without
the class's annotation may be of the class, at the top of the head as well as at the jaw: nothing in these cases shows
where the class is not, and it is drawn in places far away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from medsam_adapt.data.slices.slice_store import StoredCase

_FEWEST = 3  # cases with the annotation, from which a range is known
_MARGIN = 0.25  # of the range's length, added at either end


def mark_plausible(cases: Mapping[str, StoredCase], distances: Mapping[str, float]) -> None:
    """Set ``plausible`` of the cases that lack annotations.

    Each class may be at the distances from one other class at which it lies in the cases with its annotation: from the
    class that leaves the shortest range. Where fewer than three cases have both, it may be anywhere.

    Args:
        cases: the slices of one direction, by case id.
        distances: between slices in mm, by case id.
    """
    for case_id, case in cases.items():
        if not case.unannotated:
            continue
        plausible = np.ones((len(case.voxels), case.voxels.shape[1] - 1), dtype=bool)
        for number in case.unannotated:
            found = list(_ranges(number, case_id, cases, distances))
            if found:
                first, last = min(found, key=lambda each: each[1] - each[0])
                margin = _MARGIN * (last - first)
                places = np.arange(len(case.voxels)) * distances[case_id]
                plausible[:, number - 1] = (places >= first - margin) & (places <= last + margin)
        case.plausible = plausible


def _ranges(
    number: int, case_id: str, cases: Mapping[str, StoredCase], distances: Mapping[str, float]
) -> Iterator[tuple[float, float]]:
    """Where in mm a class begins and ends in a case, by its distances from each class that the case shows."""
    case = cases[case_id]
    for neighbour in range(1, case.voxels.shape[1]):
        if neighbour in case.unannotated or not case.voxels[:, neighbour].any():
            continue
        offsets = [
            _ends(other, number, distances[name]) - _centre(other, neighbour, distances[name])
            for name, other in cases.items()
            if not {number, neighbour} & {*other.unannotated} and other.voxels[:, [number, neighbour]].any(axis=0).all()
        ]
        if len(offsets) >= _FEWEST:
            first, last = np.min(offsets, axis=0)[0], np.max(offsets, axis=0)[1]
            centre = _centre(case, neighbour, distances[case_id])
            yield centre + first, centre + last


def _ends(case: StoredCase, number: int, distance: float) -> np.ndarray:
    """The first and the last slice (2,) of a class, in mm from the first slice of all."""
    return np.flatnonzero(case.voxels[:, number])[[0, -1]] * distance


def _centre(case: StoredCase, number: int, distance: float) -> float:
    """Of a class along the slicing direction, in mm from the first slice."""
    voxels = case.voxels[:, number]
    return float(np.average(np.arange(len(voxels)), weights=voxels)) * distance
