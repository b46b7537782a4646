"""MONAI's datalist: a JSON file that lists the cases, its paths relative to its own folder and inside it.

    root/                       or the JSON file itself, of any name
      datalist.json             {"labels": {"1": "liver"},
                                 "training": [{"image": "ct/a.nii.gz", "label": "seg/a.nii.gz",
                                               "id": "a_week_1", "patient": "a"}, ...]}

"labels", "id" (or "case_id") and "patient" are optional. "image" may be a list of the images of a case, whose names
are "channel_names", {"0": "T2", "1": "ADC"}, or a 4D file that holds them. Where classes overlap, "label" is an object
with a mask for each class, {"1": "seg/a_liver.nii.gz", ...}, and "labels" is needed. Cases of one patient are never
split between training and held-out.
"""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.json_files import read_object
from medsam_adapt.data.datasets.layouts import class_map, images_of, listed_cases, listed_images
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.image_set import ImageSource
from medsam_adapt.data.volumes.label_coding import LabelCoding

NAME = "datalist"
DESCRIPTION = 'MONAI: datalist.json (or the JSON file itself) with "training": [{"image", "label", "id", "patient"}]'


def _file(root: Path) -> Path:
    return root / "datalist.json" if root.is_dir() else root


def looks_like(root: Path) -> bool:
    """Whether ``root`` is a JSON file or holds a datalist.json."""
    return _file(root).suffix == ".json" and _file(root).is_file()


def images(root: Path) -> dict[str, ImageSource]:
    """Case id -> image of the list for training; raises InputError as `listed_images`."""
    return listed_images(_file(root))


def read(root: Path, need_labels: bool) -> CaseList:
    """The cases that the file lists for training; raises InputError as `listed_cases` and `class_map`."""
    source = _file(root)
    content = read_object(source)
    cases = tuple(Case(**entry) for entry in listed_cases(source, content, need_labels))
    classes = class_map(content["labels"], source) if "labels" in content else {}
    names = images_of(cases[0].image) if cases else ()
    if not any(case.masks for case in cases):
        return CaseList(NAME, root, cases, classes, images=names)
    if not classes:
        raise InputError(
            f'{source}: it lists masks and has no "labels". Add the names of the classes, {{"1": "liver", ...}}.'
        )
    return CaseList(NAME, root, cases, classes, coding=LabelCoding(overlapping=True), images=names)
