"""Several volumes within one series: acquisitions, echoes, time points, diffusion weightings, magnitude and phase.

Scanners number some of them as one series. Where their slices lie at the same places they make no stack, and where they
lie between each other they make a false one; so the attributes that distinguish them are compared, and one is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted
from medsam_adapt.data.volumes.formats.dicom_frames import OFTEN_WITHIN_A_VOLUME, VARYING
from medsam_adapt.data.volumes.formats.dicom_headers import Slice, series_name

_MOST_LISTED = 6
_SAME_PLACE = 0.01  # mm
_OVERLAP = 1.2  # thickness over distance: slices of one acquisition seldom overlap
_HARMLESS = re.compile(r"[A-Za-z0-9 ._/+-]{1,64}")  # values are shown only where they are codes or numbers


def split_choice(wanted: int | str) -> tuple[str, dict[str, str]]:
    """The series and the attributes that a choice names: "3:EchoTime=30,ImageType=M" or "EchoTime=30"."""
    text = str(wanted).strip()
    series, colon, conditions = text.rpartition(":") if "=" in text.rpartition(":")[2] else (text, "", "")
    if not colon and "=" in text:
        series, conditions = "", text
    pairs = [part.partition("=")[::2] for part in conditions.split(",") if part.strip()]
    names = {name.casefold(): name for name in VARYING}
    found = {names.get(name.strip().casefold(), ""): value.strip() for name, value in pairs}
    if not pairs or "" in found:
        return text, {}  # a description that happens to have these characters
    return series.strip(), found


def with_attributes(slices: Iterable[Slice], conditions: Mapping[str, str]) -> list[Slice]:
    """The slices whose attributes have the values of `split_choice`, or have them among several."""
    return [item for item in slices if all(_has(item, *condition) for condition in conditions.items())]


def _has(item: Slice, name: str, wanted: str) -> bool:
    value = item.varying.get(name, "").casefold()
    return wanted.casefold() in (value, *value.split("/"))


def refuse_several(folder: Path, slices: Sequence[Slice]) -> None:
    """Raise an InputError where the slices of a series are those of several volumes that the headers distinguish."""
    if len(slices) < 2:
        return
    places = _places(slices)
    found = [
        (_repeats(groups), rank, name, groups)
        for rank, name in enumerate(VARYING)
        if len(groups := _groups(slices, places, name)) > 1 and _are_volumes(name, groups, slices)
    ]
    if not found:
        return
    _, _, name, groups = min(found, key=lambda item: item[:2])
    values = sorted(groups, key=_sort_key)
    listed = [f"{value} ({counted(len(groups[value]), 'slice')})" for value in values[:_MOST_LISTED]]
    more = [f"and {len(values) - _MOST_LISTED} more"] if len(values) > _MOST_LISTED else []
    number = slices[0].series_number
    shown = next((value for value in values if value), values[0])
    series = "" if number is None else f"{number}:"
    raise InputError(
        f"{folder}: {series_name(number)} holds several volumes, which differ in {name}: "
        f"{', '.join([*listed, *more])}. "
        f'Choose one with --series "{series}{name}={shown}" (to train, copy the data with \'medsam-adapt data convert '
        "--series' first), or put each into a separate folder."
    )


def _places(slices: Sequence[Slice]) -> np.ndarray:
    """Of each slice along the normal of the first, in mm."""
    along_row, along_column = np.reshape(slices[0].orientation, (2, 3))
    return np.array([item.position for item in slices]) @ np.cross(along_row, along_column)


def _groups(slices: Sequence[Slice], places: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Value of an attribute -> places of the slices that have it, ascending."""
    by_value: dict[str, list[float]] = {}
    for item, place in zip(slices, places, strict=True):
        by_value.setdefault(_shown(item.varying.get(name, "")), []).append(float(place))
    return {value: np.sort(found) for value, found in by_value.items()}


def _shown(value: str) -> str:
    return (value if _HARMLESS.fullmatch(value) else "other") if value else "none"


def _repeats(groups: Mapping[str, np.ndarray]) -> int:
    return sum(int((np.diff(places) < _SAME_PLACE).sum()) for places in groups.values())


def _are_volumes(name: str, groups: Mapping[str, np.ndarray], slices: Sequence[Slice]) -> bool:
    """Whether the slices of different values lie at the same places, or between each other.

    Blocks that follow each other, and values that differ from slice to slice, occur within a volume.
    """
    if len(groups) > len(slices) / 2:
        return False
    together = np.sort(np.concatenate([*groups.values()]))
    if _repeats(groups) < (np.diff(together) < _SAME_PLACE).sum():
        return True
    several = [places for places in groups.values() if len(places) > 1]
    if len(several) < 2 or not _interleave(several):
        return False
    thickness = min((item.thickness or np.inf for item in slices), default=np.inf)
    # Scanners acquire the odd slices of a volume before the even ones; those of two volumes overlap.
    return name not in OFTEN_WITHIN_A_VOLUME or thickness > _OVERLAP * float(np.median(np.diff(together)))


def _interleave(groups: Sequence[np.ndarray]) -> bool:
    ordered = sorted(groups, key=lambda places: float(places[0]))
    return any(after[0] < before[-1] for before, after in pairwise(ordered))


def _sort_key(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value
