"""Pictures and their masks, as Kvasir-SEG has them.

root/
  images/a.jpg      PNG or JPEG, grey or in colour
  masks/a.jpg       of the same name, or a_mask.png, a_segmentation.png
  labels.json       optional: {"1": "polyp"}, or several classes

A picture is a volume of one slice with pixels of 1 mm, and its colours are SAM's. A mask of one class is inside where
it is above 127; a PNG may also hold 0 and 1. Masks of several classes are PNGs of the numbers in labels.json.
"""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.json_files import read_json
from medsam_adapt.core.text import counted
from medsam_adapt.data.datasets.layouts import class_map, pair_by_id
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.io import picture_files, volume_stem
from medsam_adapt.data.volumes.label_coding import EXCLUSIVE, LabelCoding

NAME = "image2d"
DESCRIPTION = "pictures as in Kvasir-SEG: images/ and masks/ with PNGs or JPEGs of the same name"
ENDINGS = ("_mask", "_segmentation", "_seg", "_label")
STRUCTURE = "structure"  # the class of masks without a labels.json
THRESHOLD = 127


def looks_like(root: Path) -> bool:
    """Whether there are pictures in images/ and a folder masks/."""
    return (root / "masks").is_dir() and (root / "images").is_dir() and bool(picture_files(root / "images"))


def images(root: Path) -> dict[str, Path]:
    """Case id -> picture; raises InputError for two pictures of one name."""
    return _by_id(root / "images")


def read(root: Path, need_labels: bool) -> CaseList:
    """The cases, and the classes of labels.json, or one called "structure" without it.

    Raises:
        InputError: as `pair_by_id`; no such folder, two pictures of one name, JPEG masks of several classes.
    """
    masks = _by_id(root / "masks", ENDINGS) if need_labels or (root / "masks").is_dir() else {}
    cases = tuple(Case(*row) for row in pair_by_id(images(root), masks, need_labels))
    names = root / "labels.json"
    classes = class_map(read_json(names), names) if names.is_file() else {1: STRUCTURE}
    lossy = [path for path in masks.values() if path.suffix.lower() != ".png"]
    if len(classes) > 1 and lossy:
        raise InputError(f"{lossy[0]}: a JPEG cannot hold the numbers of {counted(len(classes), 'class')}. Save PNGs.")
    coding = EXCLUSIVE if len(classes) > 1 else _above_threshold(next(iter(classes)), bool(lossy))
    return CaseList(NAME, root, cases, classes, coding=coding, intensity="picture")


def _above_threshold(class_id: int, lossy: bool) -> LabelCoding:
    """Levels above 127 are the class, and 1 is where no JPEG's noise can make it."""
    inside = {*range(THRESHOLD + 1, 256)} if lossy else {1, *range(THRESHOLD + 1, 256)}
    return LabelCoding({level: (class_id,) if level in inside else () for level in range(1, 256)})


def _by_id(folder: Path, endings: tuple[str, ...] = ()) -> dict[str, Path]:
    """Picture's name without suffix and ending -> picture."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: layout {NAME} needs this folder, and it does not exist. Create it or name another --layout."
        )
    found: dict[str, Path] = {}
    for path in picture_files(folder):
        case_id = volume_stem(path)
        for ending in endings:
            case_id = case_id.removesuffix(ending)
        if (other := found.setdefault(case_id, path)) != path:
            raise InputError(f"{path}: {other.name} is named {case_id} too. Remove one of them.")
    return found
