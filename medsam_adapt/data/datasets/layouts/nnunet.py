"""nnU-Net's raw data, version 2.

    root/
      dataset.json                  {"channel_names": {"0": "CT"},
                                     "labels": {"background": 0, "liver": 1, "ignore": 2},
                                     "numTraining": 20, "file_ending": ".nii.gz"}
      imagesTr/case_0000.nii.gz     0000: the first channel, 0001: the second
      labelsTr/case.nii.gz

Labels that are lists, {"whole tumour": [1, 2], "core": 2}, are regions: classes that may overlap. Up to four channels
are taken together; ``--layout nnunet:T2`` takes one of them, by its number or name, and ``nnunet:T2,ADC`` several.
Voxels of "ignore" are neither trained on nor scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.json_files import peek_object, read_object
from medsam_adapt.core.text import counted, did_you_mean
from medsam_adapt.data.datasets.layouts import class_map, image_names, images_of, pair_by_id, volumes_by_stem
from medsam_adapt.data.volumes.case import IGNORE, Case, CaseList
from medsam_adapt.data.volumes.image_search import ImageFile, image_set
from medsam_adapt.data.volumes.image_set import MOST_IMAGES, ImageSource
from medsam_adapt.data.volumes.io import LARGEST_LABEL
from medsam_adapt.data.volumes.label_coding import EXCLUSIVE, LabelCoding

NAME = "nnunet"
DESCRIPTION = 'nnU-Net raw data, version 2: dataset.json with "channel_names" and "labels", imagesTr/case_0000.nii.gz'
IMAGE_FOLDERS = ("imagesTr", "imagesTs")
CHOICES = {"0000": "the channel of this number", "T2,ADC": "the channels of these names"}


def looks_like(root: Path) -> bool:
    """Whether dataset.json has what only nnU-Net's second version has."""
    content = peek_object(root / "dataset.json")
    return "file_ending" in content or "channel_names" in content


def images(root: Path, choice: str = "") -> dict[str, ImageSource]:
    """Case id -> image, or images, of the channels chosen, in imagesTr, or in imagesTs where there is no imagesTr.

    ``root`` may be one of these folders itself. Raises InputError as `read`.
    """
    folder = root
    if root.name not in IMAGE_FOLDERS:
        folder = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), root / IMAGE_FOLDERS[0])
    source = folder.parent / "dataset.json"
    channels = _channels(read_object(source).get("channel_names"), choice, source)
    found = volumes_by_stem(folder, NAME)
    if len(channels) == 1:
        (ending,) = channels
        return {stem.removesuffix(ending): path for stem, path in found.items() if stem.endswith(ending)}
    cases: dict[str, dict[str, ImageFile]] = {}
    for stem, path in found.items():
        for ending, name in channels.items():
            if stem.endswith(ending):
                cases.setdefault(stem.removesuffix(ending), {})[name] = (path, None)
    names, sets, problems = image_names(list(channels.values()), source), {}, []
    for case, files in cases.items():
        try:
            sets[case] = image_set(folder, case, files, names)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise problems_error(problems)
    return dict(sets)


def read(root: Path, need_labels: bool, choice: str = "") -> CaseList:
    """The cases of imagesTr, with their channels.

    Raises:
        InputError: as `pair_by_id`; a dataset.json without what is needed, more than four channels and none chosen, a
            channel that a case lacks, an order of regions that does not fit them.
    """
    source = root / "dataset.json"
    content = read_object(source)
    found = images(root / IMAGE_FOLDERS[0], choice)
    has_labels = need_labels or (root / "labelsTr").is_dir()
    labels = volumes_by_stem(root / "labelsTr", NAME, labels=True) if has_labels else {}
    cases = tuple(Case(*row) for row in pair_by_id(found, labels, need_labels))
    classes, coding = _labels(content.get("labels"), source)
    if coding.overlapping:
        coding = replace(coding, painted=_painted(content.get("regions_class_order"), classes, source))
    names = next((images_of(image) for image in found.values()), ())
    return CaseList(NAME, root, cases, classes, coding=coding, images=names)


def _channels(raw: Any, choice: str, source: Path) -> dict[str, str]:
    """The ends of the chosen channels' file names, "_0000", and the channels' names, in the order chosen."""
    if not isinstance(raw, dict) or not raw or not all(str(number).isdecimal() for number in raw):
        raise InputError(f'{source}: it has no map "channel_names". Add {{"channel_names": {{"0": "CT"}}}}.')
    names = {int(number): str(name) for number, name in raw.items()}
    listed = ", ".join(f"{number:04d} ({name})" for number, name in sorted(names.items()))
    wanted = [word.strip() for word in choice.split(",") if word.strip()]
    if not wanted and len(names) > MOST_IMAGES:
        first = ",".join(list(names.values())[:2])
        raise InputError(
            f"{source}: it has the channels {listed} and {MOST_IMAGES} are the most that are taken together. Choose "
            f"some as in --layout {NAME}:{first}."
        )
    chosen: dict[str, str] = {}
    for word in wanted or [f"{number:04d}" for number in sorted(names)]:
        found = [number for number, name in names.items() if word in (name, f"{number:04d}", str(number))]
        if not found:
            near = did_you_mean(word, names.values())
            raise InputError(f"{source}: it has no channel {word!r}.{near} Choose one of {listed}.")
        chosen[f"_{found[0]:04d}"] = names[found[0]]
    return chosen


def _painted(order: Any, classes: Mapping[int, str], source: Path) -> dict[int, int]:
    """Class id -> label: nnU-Net paints the regions' masks with these labels, one over the other, into one map."""
    if order is None:
        return {}
    whole = isinstance(order, list) and all(type(number) is int and number > 0 for number in order)
    if not whole or len(order) != len(classes):
        raise InputError(
            f'{source}: "regions_class_order" does not give {counted(len(classes), "label")}, one for each region. '
            f"Write it as {list(range(1, len(classes) + 1))}."
        )
    return dict(zip(classes, order, strict=True))


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
