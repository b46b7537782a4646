"""A folder of images and one of labels, matched by file name.

root/
  images/case_1.nii.gz      or case_1_0000.nii.gz
  labels/case_1.nii.gz      or case_1_seg.nii.gz, case_1_label.nii.gz
  labels.json               optional: {"1": "liver", "2": "spleen"}
"""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.json_files import read_json
from medsam_adapt.data.datasets.layouts import class_map, pair_by_id, volumes_by_stem
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.io import volume_files

NAME = "folder"
DESCRIPTION = "images/ and labels/ with files of the same name, and labels.json with the classes' names if there is one"


def looks_like(root: Path) -> bool:
    """Whether there is an images/ folder with volumes in it."""
    return (root / "images").is_dir() and bool(volume_files(root / "images"))


def read(root: Path, need_labels: bool) -> CaseList:
    """The cases, and the classes of labels.json (none without it); raises InputError as `pair_by_id`."""
    labels: dict[str, Path] = {}
    if need_labels or (root / "labels").is_dir():
        for stem, path in volumes_by_stem(root / "labels", NAME).items():
            case_id = stem.removesuffix("_seg").removesuffix("_label")
            if (other := labels.setdefault(case_id, path)) != path:
                raise InputError(f"{path} and {other.name} are both labels of {case_id}; remove one of them")
    images: dict[str, Path] = {}
    for stem, path in volumes_by_stem(root / "images", NAME).items():
        # case_0000 may be a channel of "case" or a case of its own: its label tells.
        case_id = stem if stem in labels else stem.removesuffix("_0000")
        if (other := images.setdefault(case_id, path)) != path:
            raise InputError(f"{path} and {other.name} are both images of {case_id}; remove one of them")
    cases = tuple(Case(*row) for row in pair_by_id(images, labels, need_labels))
    names = root / "labels.json"
    return CaseList(NAME, root, cases, class_map(read_json(names), names) if names.is_file() else {})
