"""The cases of a data set, found by names and files alone.

The order of use is `find_cases`, `select_classes` where the user names some, `check_cases` of `case_checks` (headers
and label voxels), and `split_cases` of `splits`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medsam_adapt.config import Intensity
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets import layouts
from medsam_adapt.data.volumes.image_pair import ImageName, pair_files
from medsam_adapt.data.volumes.label_coding import EXCLUSIVE, LabelCoding, LabelSource

IGNORE = "ignore"  # the name of a label that says that nobody looked


@dataclass(frozen=True)
class Case:
    """One image, its label if there is one, and whose it is (the case's id where no patient is given).

    A label is one file, or ``masks``: a file for each class, by the class's id. Where the image is a folder of several
    DICOM series, ``series`` is the number, UID or description of one. ``problems``: class id -> why that class cannot
    be read from the label, which concerns only those who use it. ``notes`` are sentences about what was left out of
    the label.
    """

    id: str
    image: Path
    label: Path | None = None
    patient: str | None = None
    masks: dict[int, Path] = field(default_factory=dict, hash=False)
    series: str | None = None
    problems: dict[int, str] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()

    @property
    def label_source(self) -> LabelSource | None:
        """What `read_classes` reads; None where the case has no label."""
        return self.label or self.masks or None

    @property
    def patient_id(self) -> str:
        """What keeps the cases of one patient together."""
        return self.id if self.patient is None else self.patient

    def files(self) -> list[Path]:
        """The image or the pair of images, and the label's file or files."""
        return [*(pair_files(self.image) or [self.image]), *([self.label] if self.label else self.masks.values())]

    def entry(self) -> dict[str, Any]:
        """{id, image, label} as text, for the transforms of whole volumes; of masks {class id: mask} is the label."""
        label = str(self.label) if self.label else {class_id: str(path) for class_id, path in self.masks.items()}
        return {"id": self.id, "image": str(self.image), "label": label}


@dataclass(frozen=True)
class CaseList:
    """The cases of one data set.

    Attributes:
        layout: the layout's name.
        root: the folder, or the file of a datalist.
        cases: sorted by id.
        classes: label id -> name, ascending, without background; empty where the layout has no names.
        unused: classes that `select_classes` left out; their voxels count as background.
        coding: what the numbers in the label files mean.
        intensity: the policy that suits the data set, where the user names none.
        images: names of the images of a case that together are SAM's channels (`image_pair`); none for one image.
    """

    layout: str
    root: Path
    cases: tuple[Case, ...]
    classes: dict[int, str]
    unused: dict[int, str] = field(default_factory=dict)
    coding: LabelCoding = EXCLUSIVE
    intensity: Intensity = "auto"
    images: tuple[ImageName, ...] = ()


def find_cases(root: str | Path, layout: str = "auto", need_labels: bool = True, series: str | None = None) -> CaseList:
    """The cases below ``root``; opens no volume.

    Args:
        root: the data set's folder, or the JSON file of a datalist.
        layout: a layout's name, such as "msd", or "segrap:contrast" with a choice; "auto" for the first that ``root``
            looks like.
        need_labels: whether an image without a label is an error.
        series: number, UID or description of the series wanted, for folders that hold several DICOM series.

    Raises:
        InputError: no such folder, an unknown layout, a series where there are none, a folder that looks like none,
            whatever the layout refuses, no cases, an id that is given twice or that cannot be part of a file's name.
    """
    root = Path(root)
    if layout != "auto":
        layouts.get_layout(layout)  # a misspelt name is told first
    if not root.exists():
        raise InputError(f"{root} does not exist; give the folder that holds the data set")
    layout = _recognise(root) if layout == "auto" else layout
    found = layouts.read_layout(layout, root, need_labels, series)
    found = found if series is None else _of_series(found, series)
    if not found.cases:
        raise InputError(f"{root} holds no cases in layout {found.layout}; add volumes or name another --layout")
    _check_ids(root, [case.id for case in found.cases])
    return _without_ignored(replace(found, cases=tuple(sorted(found.cases, key=lambda case: case.id))))


def find_images(root: str | Path, layout: str = "auto", series: str | None = None) -> tuple[str, dict[str, Path]]:
    """The images alone of the cases that `find_cases` finds, whatever their labels are like.

    Args:
        root, layout, series: as for `find_cases`.

    Returns:
        The layout, and case id -> image, sorted by id.

    Raises:
        InputError: as `find_cases`, but for labels.
    """
    root = Path(root)
    layout = _recognise(root) if layout == "auto" else layout
    found = layouts.read_images(layout, root, series)
    if not found:
        raise InputError(f"{root} holds no images in layout {layout}; add volumes or name another --layout")
    _check_ids(root, list(found))
    return layout, dict(sorted(found.items()))


def recognised_layout(root: Path) -> str | None:
    """The name of the first layout that ``root`` looks like; None where it looks like none."""
    return next((name for name in layouts.layout_names() if layouts.get_layout(name).looks_like(root)), None)


def _check_ids(root: Path, ids: Sequence[str]) -> None:
    counts = Counter(ids)
    problems = [
        f"{root} has {count} cases with the id {case_id!r}; give each an id of its own"
        for case_id, count in counts.items()
        if count > 1
    ]
    problems += [
        f"{root} has a case with the id {case_id!r}, which cannot be part of a file's name; choose letters and digits"
        for case_id in counts
        if not re.fullmatch(r"[^\s./\\:][^/\\:\x00-\x1f]*", case_id)
    ]
    if problems:
        raise layouts.problems_error(problems)


def _of_series(found: CaseList, series: str) -> CaseList:
    """The cases whose images are folders, which hold DICOM series, with the series that is wanted."""
    if found.images or not any(case.image.is_dir() for case in found.cases):
        raise InputError(f"{found.root} holds no DICOM series to choose from; leave out --series")
    cases = (replace(case, series=series) if case.image.is_dir() else case for case in found.cases)
    return replace(found, cases=tuple(cases))


def _without_ignored(found: CaseList) -> CaseList:
    """A class that is called "ignore" is none: its voxels are neither trained on nor scored."""
    ignored = {class_id for class_id, name in found.classes.items() if layouts.class_key(name) == IGNORE}
    if not ignored:
        return found
    classes = {class_id: name for class_id, name in found.classes.items() if class_id not in ignored}
    return replace(found, classes=classes, coding=replace(found.coding, ignored=tuple(sorted(ignored))))


def _recognise(root: Path) -> str:
    if (name := recognised_layout(root)) is not None:
        return name
    known = "; ".join(f"{name} ({layouts.get_layout(name).DESCRIPTION})" for name in layouts.layout_names())
    raise InputError(f"{root} looks like no known layout; arrange it as one of these: {known}")


def select_classes(case_list: CaseList, names: Sequence[str]) -> CaseList:
    """Only the named classes, ids unchanged; the others become `CaseList.unused`.

    Case does not matter, and spaces, underscores and hyphens are equal.

    Raises:
        InputError: a class that the data set does not name.
    """
    if not case_list.classes:
        raise InputError(
            f'{case_list.root} gives its classes no names to choose from; add labels.json, such as {{"1": "liver"}}'
        )
    ids = {layouts.class_key(name): class_id for class_id, name in case_list.classes.items()}
    known = ", ".join(case_list.classes.values())
    problems = [
        f"{case_list.root} has no class {name!r}{layouts.did_you_mean(layouts.class_key(name), ids)}; it has {known}"
        for name in names
        if layouts.class_key(name) not in ids
    ]
    if problems or not names:
        raise layouts.problems_error(problems or [f"no class is named; choose from {known}"])
    chosen = {ids[layouts.class_key(name)] for name in names}
    return replace(
        case_list,
        classes={class_id: name for class_id, name in case_list.classes.items() if class_id in chosen},
        unused=case_list.unused | {k: name for k, name in case_list.classes.items() if k not in chosen},
    )
