"""A survey of a data set: what every case holds, and everything that is wrong with it, reported at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.case_checks import CaseCheck, CaseLook, gather, look_at, noted
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.io import read_header, read_volume, volume_files


@dataclass(frozen=True)
class Survey:
    """What `survey` saw.

    Attributes:
        cases: the cases that could be found; None where the folder as a whole could not be read.
        looks: one for each case, whatever is wrong with it.
        intensities: case id -> (lowest, highest) voxel, in the volume's own units (Hounsfield for CT), of the images
            that can be read.
        check: classes, voxels and headers of what can be read.
        problems: a sentence for each, with its file and its fix.
    """

    cases: CaseList | None
    looks: tuple[CaseLook, ...]
    intensities: dict[str, tuple[float, float]]
    check: CaseCheck
    problems: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for everything that was left out, and for every class without a voxel in any case."""
        absent = self.check.absent_classes() if self.check.voxels else ()
        return (*self.check.notes, *(f"class '{name}' has no voxel in any case." for name in absent))

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "layout": None if self.cases is None else self.cases.layout,
            "images": [] if self.cases is None else list(self.cases.images),
            "classes": {str(class_id): name for class_id, name in self.check.classes.items()},
            "cases": [self._case_as_json(look) for look in self.looks],
            "problems": list(self.problems),
            "notes": list(self.notes),
        }

    def _case_as_json(self, look: CaseLook) -> dict[str, Any]:
        header, voxels = look.header, self.check.voxels.get(look.case.id)
        return {
            "id": look.case.id,
            "patient": look.case.patient_id,
            "shape": None if header is None else list(header.shape),
            "spacing": None if header is None else list(header.spacing),
            "orientation": None if header is None else header.orientation,
            "intensities": None if (seen := self.intensities.get(look.case.id)) is None else list(seen),
            "voxels": None if voxels is None else {self.check.classes[key]: count for key, count in voxels.items()},
            "unannotated": [name for key, name in self.check.classes.items() if key in look.case.unannotated],
        }


def survey(
    root: str | Path,
    layout: str = "auto",
    progress: Callable[[str, int], None] | None = None,
    series: str | None = None,
) -> Survey:
    """Look at every file of a data set, whatever is wrong with the others.

    Args:
        root: the data set's folder, or the JSON file of a datalist.
        layout: a layout's name, or "auto".
        progress: called with each case's id and the number of cases when it is done.
        series: as for `find_cases`.

    Raises:
        InputError: no such folder, or an unknown layout: there is nothing to look at.
    """
    problems: list[str] = []
    cases = _find(Path(root), layout, problems, series)
    if cases is None:
        return Survey(None, (), {}, CaseCheck({}, {}, {}), (*problems, *_unreadable(Path(root), problems)))
    seen = survey_cases(cases, progress)
    return replace(seen, problems=(*problems, *seen.problems))


def survey_cases(
    cases: CaseList,
    progress: Callable[[str, int], None] | None = None,
    read_image: Callable[[Case], bool] = lambda case: True,
) -> Survey:
    """Look at every file of cases that were found.

    Args:
        cases: the cases.
        progress: called with each case's id and the number of cases when it is done.
        read_image: whether a case's image is to be decompressed, which is slow and reveals damage and intensities.
    """
    looks: list[CaseLook] = []
    intensities: dict[str, tuple[float, float]] = {}
    for case in cases.cases:
        look = look_at(case, cases)
        if look.header is not None and read_image(case):
            more: list[str] = []
            with noted(more):
                voxels, _ = read_volume(case.image, case.series)
                intensities[case.id] = (float(voxels.min()), float(voxels.max()))
            look = replace(look, problems=(*look.problems, *more))
        looks.append(look)
        if progress is not None:
            progress(case.id, len(cases.cases))
    check, problems = gather(cases, looks)
    return Survey(cases, tuple(looks), intensities, check, tuple(problems))


def _find(root: Path, layout: str, problems: list[str], series: str | None) -> CaseList | None:
    """The cases; where labels are missing, that is reported and the images are looked at all the same."""
    try:
        return find_cases(root, layout, series=series)
    except InputError as error:
        problems.extend(error.problems)
        if not root.exists():
            raise
    try:
        return find_cases(root, layout, need_labels=False, series=series)
    except InputError:
        return None


def _unreadable(root: Path, known: Sequence[str]) -> list[str]:
    """What is wrong with the single volumes below a folder that is no data set as it stands."""
    problems: list[str] = []
    for folder, _, _ in os.walk(root):
        for path in volume_files(folder):
            with noted(problems):
                read_header(path)
    return [problem for problem in problems if problem not in known]
