"""nnU-Net's raw data, version 2.

    root/
      dataset.json                  {"channel_names": {"0": "CT"},
                                     "labels": {"background": 0, "liver": 1, "ignore": 2},
                                     "numTraining": 20, "file_ending": ".nii.gz"}
      imagesTr/case_0000.nii.gz     0000: the first channel
      labelsTr/case.nii.gz

Labels that are lists, {"whole tumour": [1, 2], "core": 2}, are regions: classes that may overlap. Of images with
several channels one is chosen by its number or name, as in ``--layout nnunet:T2``. Voxels of "ignore" are neither
trained on nor scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.json_files import peek_object, read_object
from medsam_adapt.core.text import did_you_mean
from medsam_adapt.data.datasets.layouts import class_map, pair_by_id, volumes_by_stem
from medsam_adapt.data.volumes.case import IGNORE, Case, CaseList
from medsam_adapt.data.volumes.io import LARGEST_LABEL
from medsam_adapt.data.volumes.label_coding import EXCLUSIVE, LabelCoding

NAME = "nnunet"
DESCRIPTION = 'nnU-Net raw data, version 2: dataset.json with "channel_names" and "labels", imagesTr/case_0000.nii.gz'
IMAGE_FOLDERS = ("imagesTr", "imagesTs")
CHOICES = {"0000": "the channel of this number", "T2": "the channel of this name"}


def looks_like(root: Path) -> bool:
    """Whether dataset.json has what only nnU-Net's second version has."""
    content = peek_object(root / "dataset.json")
    return "file_ending" in content or "channel_names" in content


def images(root: Path, choice: str = "") -> dict[str, Path]:
    """Case id -> image of the channel chosen, in imagesTr, or in imagesTs where there is no imagesTr.

    ``root`` may be one of these folders itself. Raises InputError as `read`.
    """
    folder = root
    if root.name not in IMAGE_FOLDERS:
        folder = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), root / IMAGE_FOLDERS[0])
    source = folder.parent / "dataset.json"
    channel = _channel(read_object(source).get("channel_names"), choice, source)
    found = volumes_by_stem(folder, NAME)
    return {stem.removesuffix(channel): path for stem, path in found.items() if stem.endswith(channel)}


def read(root: Path, need_labels: bool, choice: str = "") -> CaseList:
    """The cases of imagesTr, by one channel of each.

    Raises:
        InputError: as `pair_by_id`; a dataset.json without what is needed, several channels and none chosen.
    """
    source = root / "dataset.json"
    content = read_object(source)
    found = images(root / IMAGE_FOLDERS[0], choice)
    has_labels = need_labels or (root / "labelsTr").is_dir()
    labels = volumes_by_stem(root / "labelsTr", NAME, labels=True) if has_labels else {}
    cases = tuple(Case(*row) for row in pair_by_id(found, labels, need_labels))
    classes, coding = _labels(content.get("labels"), source)
    return CaseList(NAME, root, cases, classes, coding=coding)


def _channel(raw: Any, choice: str, source: Path) -> str:
    """The end of the chosen channel's file names: "_0000"."""
    if not isinstance(raw, dict) or not raw or not all(str(number).isdecimal() for number in raw):
        raise InputError(f'{source}: it has no map "channel_names". Add {{"channel_names": {{"0": "CT"}}}}.')
    names = {int(number): str(name) for number, name in raw.items()}
    listed = ", ".join(f"{number:04d} ({name})" for number, name in sorted(names.items()))
    if not choice and len(names) > 1:
        raise InputError(
            f"{source}: it has the channels {listed}, and one is used at a time. Choose it, as in --layout "
            f"{NAME}:{next(iter(names.values()))}."
        )
    found = [number for number, name in names.items() if choice in ("", name, f"{number:04d}", str(number))]
    if not found:
        near = did_you_mean(choice, names.values())
        raise InputError(f"{source}: it has no channel {choice!r}{near}. Choose one of {listed}.")
    return f"_{found[0]:04d}"


def _labels(raw: Any, source: Path) -> tuple[dict[int, str], LabelCoding]:
    """The classes by id, and what the numbers in the files mean."""
    if not isinstance(raw, dict) or not any(isinstance(value, list) for value in raw.values()):
        return class_map(raw, source), EXCLUSIVE
    members = {name: value if isinstance(value, list) else [value] for name, value in raw.items()}
    _check_regions(members, source)
    ignored = tuple(members.pop(IGNORE, []))
    regions = [name for name, numbers in members.items() if numbers != [0]]
    classes = dict(enumerate(regions, start=1))
    parts = {
        number: tuple(class_id for class_id, name in classes.items() if number in members[name])
        for number in sorted({number for name in regions for number in members[name]})
    }
    return classes, LabelCoding(parts, ignored, overlapping=True)


def _check_regions(members: Mapping[str, list[Any]], source: Path) -> None:
    for name, numbers in members.items():
        whole = all(type(number) is int and 0 <= number <= LARGEST_LABEL for number in numbers)
        if not numbers or not whole or (0 in numbers and numbers != [0]):
            raise InputError(
                f"{source}: it gives {name!r} the labels {numbers}. Give a whole number above 0, or a list of them."
            )
