"""Medical Segmentation Decathlon: a task's folder with its dataset.json.

    root/
      dataset.json              {"labels": {"0": "background", "1": "liver"},
                                 "training": [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}, ...]}
      imagesTr/x.nii.gz
      labelsTr/x.nii.gz

Images of several modalities (4D, as in Task01 and Task05) are refused when they are read.
"""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.core.json_files import read_object
from medsam_adapt.data.datasets.layouts import class_map, listed_cases, listed_images, nnunet
from medsam_adapt.data.volumes.case import Case, CaseList

NAME = "msd"
DESCRIPTION = 'Medical Segmentation Decathlon: dataset.json with "training" and "labels", imagesTr/, labelsTr/'


def looks_like(root: Path) -> bool:
    """Whether there is a dataset.json beside imagesTr/, and not nnU-Net's."""
    there = (root / "dataset.json").is_file() and (root / "imagesTr").is_dir()
    return there and not nnunet.looks_like(root)


def images(root: Path) -> dict[str, Path]:
    """Case id -> image of the list for training; raises InputError as `listed_images`."""
    return listed_images(root / "dataset.json")


def read(root: Path, need_labels: bool) -> CaseList:
    """The cases that dataset.json lists for training; raises InputError as `listed_cases` and `class_map`."""
    source = root / "dataset.json"
    content = read_object(source)
    cases = tuple(Case(**entry) for entry in listed_cases(source, content, need_labels))
    return CaseList(NAME, root, cases, class_map(content.get("labels"), source))
