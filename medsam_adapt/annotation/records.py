"""Authors, prompts and corrections from the JSON that `Drawing.provenance` makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medsam_adapt.annotation.drawing import Author, Prompts
from medsam_adapt.config import Axis
from medsam_adapt.data.prompts.simulated import SlicePrompt

Entries = Iterable[Mapping[str, Any]]
# Each of these raises KeyError, TypeError, ValueError or AttributeError for a damaged file.


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
