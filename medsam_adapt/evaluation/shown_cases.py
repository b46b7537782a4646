"""The worst, the median and the best case as the evaluation stores them for the report: pictures and outlines.

Reading them needs neither volumes nor a network, so ``medsam-adapt report`` loads none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, StringConstraints, model_validator

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import read_record, written_whole

SHOWN_FILE, FORMAT = "shown_cases.json", 1
ROLES = ("worst", "median", "best", "only")  # what a case is shown as; ``only`` where no other case has a score


def choose_cases(means: Mapping[str, float]) -> dict[str, str]:
    """Which cases to show: some of :data:`ROLES`, in this order -> a case, each case once.

    Args:
        means: mean DSC by case. Cases with NaN are left out.
    """
    ranked = sorted((case for case in means if not math.isnan(means[case])), key=lambda case: means[case])
    if len(ranked) == 1:
        return {"only": ranked[0]}
    chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]} if ranked else {}
    if len(ranked) == 2:
        del chosen["median"]
    return chosen


#: as `medsam_adapt.evaluation.contours.outline` writes them
Outlines = Annotated[str, StringConstraints(pattern=r"^(-?\d{1,6},-?\d{1,6},[0-7]*(;|$))*$")]


class PackedCase(BaseModel):
    """One case in the page.

    Attributes:
        case: its id.
        numbers: of the slices shown, counted from 1 as the volume has them.
        slices: that the volume has.
        width: of a slice, pixels.
        height: of a slice, pixels.
        native: (rows, columns) of a slice in the volume.
        images: names of the images of the case that are taken together; none for one image.
        sheets: JPEG files, each of ``per_sheet`` slices one below the other; of the first image, where there are more.
        further_sheets: the same of each image after the first.
        per_sheet: slices in a sheet; fewer in the last one.
        prediction: for each slice, number of the class -> outlines.
        reference: the same.
        key_index: index among the slices shown of the one with most of the reference.
        key_slice: this one alone, JPEG.
    """

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    case: str
    numbers: list[int]
    slices: PositiveInt
    width: PositiveInt
    height: PositiveInt
    native: tuple[PositiveInt, PositiveInt]
    images: list[str] = []
    sheets: list[bytes]
    further_sheets: list[list[bytes]] = []
    per_sheet: PositiveInt
    prediction: list[dict[PositiveInt, Outlines]]
    reference: list[dict[PositiveInt, Outlines]]
    key_index: NonNegativeInt
    key_slice: bytes

    @model_validator(mode="after")
    def _is_consistent(self) -> PackedCase:
        if not len(self.prediction) == len(self.reference) == len(self.numbers) > self.key_index:
            raise ValueError("the slices and their outlines differ in number")
        if max(1, len(self.images)) != len(self.each_image):
            raise ValueError("the images and their names differ in number")
        if {len(sheets) for sheets in self.each_image} != {math.ceil(len(self.numbers) / self.per_sheet)}:
            raise ValueError("the sheets do not hold the slices")
        return self

    @property
    def each_image(self) -> list[list[bytes]]:
        """The sheets of every image."""
        return [self.sheets, *self.further_sheets]

    @property
    def packed_bytes(self) -> int:
        """Size of the pictures and the outlines before they are put into the page."""
        outlines = (
            len(line) for slices in (self.prediction, self.reference) for each in slices for line in each.values()
        )
        return sum(len(sheet) for sheets in self.each_image for sheet in sheets) + sum(outlines)


class ShownCases(BaseModel):
    """Content of ``shown_cases.json``.

    Attributes:
        cases: role -> case, worst first; empty where no case has a score.
        mean_dsc: of these cases' masks.
    """

    format: int = FORMAT
    cases: dict[str, PackedCase]
    mean_dsc: dict[str, float]


def write_shown_cases(folder: Path, shown: ShownCases) -> Path:
    """Store the cases that a report shows beside the scores in ``folder``."""
    path = folder / SHOWN_FILE
    with written_whole(path) as temporary:
        temporary.write_text(shown.model_dump_json() + "\n", encoding="utf-8")
    return path


def read_shown_cases(folder: Path) -> ShownCases:
    """The cases stored beside the scores in ``folder``.

    Raises:
        InputError: they were not stored, or the file is damaged.
    """
    path, command = folder / SHOWN_FILE, f"Run 'medsam-adapt evaluate {folder}'"
    if not path.is_file():
        raise InputError(f"{path}: it does not exist. {command}, which stores the cases that the page shows.")
    return read_record(path, ShownCases, f"{command}.")
