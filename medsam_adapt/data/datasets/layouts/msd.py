"""Medical Segmentation Decathlon: a task's folder with its dataset.json.

    root/
      dataset.json              {"labels": {"0": "background", "1": "liver"},
                                 "training": [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}, ...]}
      imagesTr/x.nii.gz
      labelsTr/x.nii.gz

Where "modality" names several images, {"0": "FLAIR", "1": "T1w", ...}, as in Task01 and Task05, each file is 4D and
holds them in that order.
"""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.core.json_files import read_object
from medsam_adapt.data.datasets.layouts import class_map, images_of, listed_cases, listed_images, nnunet
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.image_set import ImageSource

NAME = "msd"
DESCRIPTION = 'Medical Segmentation Decathlon: dataset.json with "training" and "labels", imagesTr/, labelsTr/'


def looks_like(root: Path) -> bool:
    """Whether there is a dataset.json beside imagesTr/, and not nnU-Net's."""
    there = (root / "dataset.json").is_file() and (root / "imagesTr").is_dir()
    return there and not nnunet.looks_like(root)


def images(root: Path) -> dict[str, ImageSource]:
    """Case id -> image of the list for training; raises InputError as `listed_images`."""
    return listed_images(root / "dataset.json")


def read(root: Path, need_labels: bool) -> CaseList:
    """The cases that dataset.json lists for training; raises InputError as `listed_cases` and `class_map`."""
    source = root / "dataset.json"
    content = read_object(source)
    cases = tuple(Case(**entry) for entry in listed_cases(source, content, need_labels))
    names = images_of(cases[0].image) if cases else ()
    return CaseList(NAME, root, cases, class_map(content.get("labels"), source), images=names)
