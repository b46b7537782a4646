"""A folder of images and one of labels, matched by file name.

root/
  images/case_1.nii.gz      or case_1_0000.nii.gz
  labels/case_1.nii.gz      or case_1_seg.nii.gz, case_1_label.nii.gz
  labels.json               optional: {"1": "liver", "2": "spleen"}
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.json_files import read_json
from medsam_adapt.data.datasets.layouts import class_map, pair_by_id, unique_images, volumes_by_stem
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.io import volume_files, volume_stem

NAME = "folder"
DESCRIPTION = "images/ and labels/ with files of the same name, and labels.json with the classes' names if there is one"


def looks_like(root: Path) -> bool:
    """Whether there is an images/ folder with volumes in it."""
    return (root / "images").is_dir() and bool(volume_files(root / "images"))


def images(root: Path) -> dict[str, Path]:
    """Case id -> image; raises InputError for two images of one case."""
    labels = root / "labels"
    return _images(root, {_case_id(volume_stem(path)) for path in (volume_files(labels) if labels.is_dir() else [])})


def read(root: Path, need_labels: bool) -> CaseList:
    """The cases, and the classes of labels.json (none without it); raises InputError as `pair_by_id`."""
    labels: dict[str, Path] = {}
    if need_labels or (root / "labels").is_dir():
        for stem, path in volumes_by_stem(root / "labels", NAME).items():
            case_id = _case_id(stem)
            if (other := labels.setdefault(case_id, path)) != path:
                raise InputError(f"{path} and {other.name} are both labels of {case_id}; remove one of them")
    cases = tuple(Case(*row) for row in pair_by_id(_images(root, labels), labels, need_labels))
    names = root / "labels.json"
    return CaseList(NAME, root, cases, class_map(read_json(names), names) if names.is_file() else {})


def _case_id(label_stem: str) -> str:
    return label_stem.removesuffix("_seg").removesuffix("_label")


def _images(root: Path, labels: Collection[str]) -> dict[str, Path]:
    """Case id -> image: case_0000 may be a channel of "case" or a case of its own, which its label's id decides."""
    found = volumes_by_stem(root / "images", NAME)
    return unique_images((stem if stem in labels else stem.removesuffix("_0000"), path) for stem, path in found.items())
