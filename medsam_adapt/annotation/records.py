"""Who drew what on a scan, as JSON, and authors, prompts and corrections back from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from medsam_adapt.annotation.drawing import Author, Drawing
from medsam_adapt.annotation.history import Prompts
from medsam_adapt.config import Axis
from medsam_adapt.data.prompts.simulated import SlicePrompt

Entries = Iterable[Mapping[str, Any]]


def provenance(drawing: Drawing, classes: Mapping[int, str], status: str) -> dict[str, Any]:
    """Who drew what, by class and axial slice (from 0, from inferior to superior)."""
    with drawing.lock:
        there = entries_of(drawing)
        return {
            "format": 1,
            "scan": drawing.id,
            "status": status,
            "authors": there.pop("authors"),
            "classes": {
                name: {"label": class_id, "axial_slices": _slices_of(drawing, class_id)}
                for class_id, name in classes.items()
            },
            **there,
        }


def entries_of(drawing: Drawing) -> dict[str, Any]:
    """What is kept beside the voxels: ``authors``, ``edited``, ``prompts`` and ``accepted``."""
    with drawing.lock:
        return {
            "authors": [{"number": number, **asdict(each)} for number, each in enumerate(drawing.authors, start=1)],
            "edited": [
                {"label": class_id, "axis": axis, "slices": sorted(there)}
                for class_id, axes in drawing.edited.items()
                for axis, there in axes.items()
            ],
            "prompts": [
                {"label": class_id, "axis": axis, "slice": index, **asdict(prompt)}
                for class_id, axes in drawing.prompts.items()
                for axis, there in axes.items()
                for index, prompt in sorted(there.items())
            ],
            "accepted": sorted(drawing.accepted),
        }


def _slices_of(drawing: Drawing, class_id: int) -> dict[str, dict[str, dict[str, int]]]:
    """Axial slice -> how many voxels each author drew and erased."""
    there = drawing.label == class_id
    found: dict[str, dict[str, dict[str, int]]] = {}
    for index in np.flatnonzero(there.any(axis=(0, 1))).tolist():
        counts = np.bincount(drawing.drawn_by[:, :, index][there[:, :, index]])
        found[str(index)] = {"drawn": {str(author): int(counts[author]) for author in np.flatnonzero(counts)}}
    for author, classes in drawing.erased.items():
        for index, count in classes.get(class_id, {}).items():
            found.setdefault(str(index), {}).setdefault("erased", {})[str(author)] = count
    return found


# Each of the functions below raises KeyError, TypeError, ValueError or AttributeError for a damaged file.


def authors_from(entries: Entries) -> list[Author]:
    """The authors by number."""
    return [Author(each["kind"], each["name"], each["version"]) for each in entries]


def prompts_from(entries: Entries) -> Prompts:
    """The prompts."""
    found: Prompts = {}
    for entry in entries:
        box = None if entry["box"] is None else tuple(float(value) for value in entry["box"])
        points = tuple((float(x), float(y), bool(inside)) for x, y, inside in entry["points"])
        prompt = SlicePrompt(box, points)  # type: ignore[arg-type]
        found.setdefault(int(entry["label"]), {}).setdefault(entry["axis"], {})[int(entry["slice"])] = prompt
    return found


def edited_from(entries: Entries) -> dict[int, dict[Axis, set[int]]]:
    """Class id -> axis -> slices on which a person changed the class."""
    found: dict[int, dict[Axis, set[int]]] = {}
    for each in entries:
        found.setdefault(int(each["label"]), {})[each["axis"]] = {int(index) for index in each["slices"]}
    return found
