"""Prompts that a user gives for a volume, as a JSON file; the format is described in docs/prompts.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.json_files import read_object

Units = Literal["voxel", "mm-ras", "mm-lps"]
_FARTHEST = 1e6  # voxels or mm


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("give a finite number")
    if abs(value) > _FARTHEST:
        raise ValueError("give a place in the volume, this is none")
    return value


Coordinate = Annotated[float, AfterValidator(_finite)]
Position = tuple[Coordinate, Coordinate, Coordinate]


class Point(BaseModel):
    """A point inside the structure, or one outside it, which marks where the structure is not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: Position
    inside: bool = True


class Prompt(BaseModel):
    """What points at one structure.

    Attributes:
        label: the structure, by its name in the run or by its label id.
        units: of all coordinates: ``voxel`` indices in the file's own axis order, counted from 0, or millimetres with
            x to the right and y to the front (``mm-ras``, NIfTI and 3D Slicer) or x to the left and y to the back
            (``mm-lps``, DICOM and ITK).
        box: two opposite corners, the centres of the first and the last voxel; its edges run along the volume's own
            axes, in millimetres too. A box whose corners are on one slice is a box on that slice.
        points: inside or outside the structure, on any slices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str | int
    units: Units
    box: tuple[Position, Position] | None = None
    points: tuple[Point, ...] = ()

    @model_validator(mode="after")
    def _points_at_something(self) -> Prompt:
        if self.box is None and not self.points:
            raise ValueError("give a box, or points")
        return self


class _PromptFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompts: list[Prompt] = Field(default_factory=list)
    cases: dict[str, list[Prompt]] = Field(default_factory=dict)


def read_prompts(path: str | Path, cases: Sequence[str]) -> dict[str, list[Prompt]]:
    """The prompts of each case.

    Args:
        path: the JSON file, with ``prompts`` for one volume or ``cases`` for several.
        cases: names of the volumes to be segmented.

    Raises:
        InputError: all faults with their places: not JSON, unknown keys, wrong types, units that are missing, a case
            that is not to be segmented or has no prompts.
    """
    path = Path(path)
    found = _read(path)
    if found.prompts:
        if len(cases) > 1:
            raise InputError(
                f'{path}: it has prompts for one volume, but there are {len(cases)}. List them under "cases", with the '
                "name of each volume."
            )
        return {cases[0]: found.prompts}
    problems = [
        f'{path}: there is no input {name}, which "cases" names. Check the name.' for name in {*found.cases} - {*cases}
    ]
    problems += [f'{path}: it has no prompts for {name}. Add them under "cases".' for name in {*cases} - {*found.cases}]
    if problems:
        raise problems_error(sorted(problems))
    return found.cases


def prompts_in(path: str | Path) -> dict[str, list[Prompt]]:
    """All prompts of a file by case, whatever volumes there are; the key is empty where it names no case.

    Raises:
        InputError: all faults with their places, as for :func:`read_prompts`.
    """
    found = _read(Path(path))
    return {"": found.prompts} if found.prompts else found.cases


def _read(path: Path) -> _PromptFile:
    content = read_object(path)
    for entries in (content.get("prompts"), *_lists(content.get("cases"))):
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and "units" in content:
                entry.setdefault("units", content["units"])
    try:
        found = _PromptFile.model_validate({key: value for key, value in content.items() if key != "units"})
    except ValidationError as error:
        raise problems_error([f"{path}, {_explain(fault)}" for fault in error.errors()]) from error
    if bool(found.prompts) == bool(found.cases):
        raise InputError(
            f'{path}: it has neither or both of "prompts" and "cases". Give "prompts" for one volume, or "cases", a '
            "list by name."
        )
    return found


def _lists(cases: Any) -> list[Any]:
    return list(cases.values()) if isinstance(cases, dict) else []


def _explain(fault: Mapping[str, Any]) -> str:
    """'prompts[2].box[0][1]: give a finite number (given NaN)'."""
    place = ""
    for part in fault["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f"{'.' * bool(place)}{part}"
    if fault["type"] == "missing" and fault["loc"][-1] == "units":
        return f'{place}: state the units, "voxel", "mm-ras" or "mm-lps", there or once for the whole file'
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if fault["type"] == "missing" else f" (given {json.dumps(fault['input'], default=str)[:60]})"
    return f"{place or 'file'}: {message[:1].lower()}{message[1:]}{given}"
