"""The cases of a data set, found by names and files alone.

The order of use is `find_cases`, `select_classes` where the user names some, `check_cases` of `case_checks` (headers
and label voxels), and `split_cases` of `splits`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.text import class_key, counted, did_you_mean
from medsam_adapt.data.datasets import layouts
from medsam_adapt.data.datasets.annotated import with_annotated
from medsam_adapt.data.volumes.case import IGNORE, CaseList
from medsam_adapt.data.volumes.image_set import ImageSet, ImageSource, in_order


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
            whatever the layout refuses, no cases, an id that is given twice or that cannot be part of a file's name,
            annotated classes or cases that there are not.
    """
    root = Path(root)
    if layout != "auto":
        layouts.get_layout(layout)  # a misspelt name is reported first
    if not root.exists():
        raise InputError(f"{root}: it does not exist. Give the folder that holds the data set.")
    layout = _recognise(root) if layout == "auto" else layout
    found = layouts.read_layout(layout, root, need_labels, series)
    found = found if series is None else _of_series(found, series)
    if not found.cases:
        raise InputError(f"{root}: it holds no cases in layout {found.layout}. Add volumes or name another --layout.")
    _check_ids(root, [case.id for case in found.cases])
    found = _without_ignored(replace(found, cases=tuple(sorted(found.cases, key=lambda case: case.id))))
    return with_annotated(found)


def find_images(
    root: str | Path, layout: str = "auto", series: str | None = None
) -> tuple[str, dict[str, ImageSource]]:
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
        raise InputError(f"{root}: it holds no images in layout {layout}. Add volumes or name another --layout.")
    _check_ids(root, list(found))
    return layout, dict(sorted(found.items()))


def images_in_order(cases: CaseList, images: Sequence[str]) -> CaseList:
    """The cases with their images in the order of a run; as they are where they have others, or 4D files."""
    if cases.images == tuple(images):
        return cases
    turned = [in_order(case.image, images) if isinstance(case.image, ImageSet) else None for case in cases.cases]
    ordered = tuple(replace(case, image=image) for case, image in zip(cases.cases, turned, strict=True) if image)
    return replace(cases, cases=ordered, images=tuple(images)) if len(ordered) == len(cases.cases) else cases


def recognised_layout(root: Path) -> str | None:
    """The name of the first layout that ``root`` looks like; None where it looks like none."""
    return next((name for name in layouts.layout_names() if layouts.get_layout(name).looks_like(root)), None)


def _check_ids(root: Path, ids: Sequence[str]) -> None:
    counts = Counter(ids)
    problems = [
        f"{root}: {counted(count, 'case')} have the id {case_id!r}. Give each a unique id."
        for case_id, count in counts.items()
        if count > 1
    ]
    problems += [
        f"{root}: the case id {case_id!r} cannot be part of a file name. Choose letters and digits."
        for case_id in counts
        if not re.fullmatch(r"[^\s./\\:][^/\\:\x00-\x1f]*", case_id)
    ]
    if problems:
        raise problems_error(problems)


def _of_series(found: CaseList, series: str) -> CaseList:
    """The cases whose images are folders, which hold DICOM series, with the series that is wanted."""
    if found.images or not any(case.first_image.is_dir() for case in found.cases):
        raise InputError(f"{found.root}: it holds no DICOM series to choose from. Leave out --series.")
    cases = (replace(case, series=series) if case.first_image.is_dir() else case for case in found.cases)
    return replace(found, cases=tuple(cases))


def _without_ignored(found: CaseList) -> CaseList:
    """A class that is called "ignore" is none: its voxels are neither trained on nor scored."""
    ignored = {class_id for class_id, name in found.classes.items() if class_key(name) == IGNORE}
    if not ignored:
        return found
    classes = {class_id: name for class_id, name in found.classes.items() if class_id not in ignored}
    return replace(found, classes=classes, coding=replace(found.coding, ignored=tuple(sorted(ignored))))


def _recognise(root: Path) -> str:
    if (name := recognised_layout(root)) is not None:
        return name
    known = "; ".join(f"{name} ({layouts.get_layout(name).DESCRIPTION})" for name in layouts.layout_names())
    raise InputError(f"{root}: its layout is not known. Arrange it as one of these: {known}.")


def select_classes(case_list: CaseList, names: Sequence[str]) -> CaseList:
    """Only the named classes, ids unchanged; the others become `CaseList.unused`.

    Case does not matter, and spaces, underscores and hyphens are equal.

    Raises:
        InputError: a class that the data set does not name.
    """
    if not case_list.classes:
        raise InputError(
            f'{case_list.root}: its classes have no names to choose from. Add labels.json, such as {{"1": "liver"}}.'
        )
    ids = {class_key(name): class_id for class_id, name in case_list.classes.items()}
    known = ", ".join(case_list.classes.values())
    problems = [
        f"{case_list.root}: it has no class {name!r}.{did_you_mean(class_key(name), ids)} Choose from {known}."
        for name in names
        if class_key(name) not in ids
    ]
    if problems or not names:
        raise problems_error(problems or [f"--classes: no class is named. Choose from {known}."])
    chosen = {ids[class_key(name)] for name in names}
    return replace(
        case_list,
        classes={class_id: name for class_id, name in case_list.classes.items() if class_id in chosen},
        unused=case_list.unused | {k: name for k, name in case_list.classes.items() if k not in chosen},
    )
