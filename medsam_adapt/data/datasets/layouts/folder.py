"""A folder of images and one of labels, matched by file name.

root/
  images/case_1.nii.gz      or case_1_0000.nii.gz
  labels/case_1.nii.gz      or case_1_seg.nii.gz, case_1.label.nii.gz, case_1.seg.nrrd, ...
  labels.json               optional: {"1": "liver", "2": "spleen"}

Several images of a case lie in a folder of its name, images/case_1/T2.nii.gz and images/case_1/ADC.nii.gz, and are
called as the files are; every case has the same.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.json_files import read_json
from medsam_adapt.data.datasets.layouts import (
    class_map,
    image_names,
    images_of,
    pair_by_id,
    unique_images,
    volumes_by_stem,
)
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.files import case_stem, is_slicer_label, volume_files
from medsam_adapt.data.volumes.image_search import ImageFile, common_names, folder_images, image_set
from medsam_adapt.data.volumes.image_set import ImageSource
from medsam_adapt.data.volumes.named_labels import with_named_labels

NAME = "folder"
DESCRIPTION = "images/ and labels/ with files of the same name, and labels.json with the classes' names if there is one"


def looks_like(root: Path) -> bool:
    """Whether there is an images/ folder with volumes, or folders of volumes, in it."""
    if not (root / "images").is_dir():
        return False
    return any(not is_slicer_label(path) for path in volume_files(root / "images")) or bool(_image_sets(root))


def images(root: Path) -> dict[str, ImageSource]:
    """Case id -> image; raises InputError for two images of one case."""
    return _images(root, _labels(root) if (root / "labels").is_dir() else {})


def read(root: Path, need_labels: bool) -> CaseList:
    """The cases, and the classes of labels.json (none without it); raises InputError as `pair_by_id`."""
    labels = _labels(root) if need_labels or (root / "labels").is_dir() else {}
    found = _images(root, labels)
    cases = tuple(Case(*row) for row in pair_by_id(found, labels, need_labels))
    of_case = next((images_of(image) for image in found.values()), ())
    names = root / "labels.json"
    classes = class_map(read_json(names), names) if names.is_file() else {}
    if any(case.label is not None and is_slicer_label(case.label) for case in cases):
        cases, classes, coding = with_named_labels(cases, classes)
        return CaseList(NAME, root, cases, classes, coding=coding, images=of_case)
    return CaseList(NAME, root, cases, classes, images=of_case)


def _labels(root: Path) -> dict[str, Path]:
    """Case id -> label: the name of an image, or one with an ending such as _seg or .label."""
    images = {*_image_sets(root)} or (
        {*volumes_by_stem(root / "images", NAME)} if (root / "images").is_dir() else set()
    )
    labels: dict[str, Path] = {}
    for stem, path in volumes_by_stem(root / "labels", NAME, labels=True).items():
        case_id = stem if {stem, f"{stem}_0000"} & images else case_stem(path)
        if (other := labels.setdefault(case_id, path)) != path:
            raise InputError(f"{path} and {other.name} are both labels of {case_id}; remove one of them")
    return labels


def _image_sets(root: Path) -> dict[str, dict[str, ImageFile]]:
    """Case id -> its images by name, of the folders in images/ that hold files of volumes."""
    folder = root / "images"
    if not folder.is_dir() or any(path.is_file() for path in volume_files(folder)):
        return {}
    inside = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = {path.name: folder_images(path) for path in sorted(inside)}
    return {case: files for case, files in found.items() if any(path.is_file() for path, _ in files.values())}


def _images(root: Path, labels: Collection[str]) -> dict[str, ImageSource]:
    """Case id -> image: case_0000 may be a channel of "case" or a separate case, which its label's id decides."""
    if sets := _image_sets(root):
        names = image_names(list(common_names(root / "images", sets)), root / "images")
        if len(names) == 1:
            return {case: files[names[0]][0] for case, files in sets.items()}
        return {case: image_set(root / "images", case, files, names) for case, files in sets.items()}
    found = volumes_by_stem(root / "images", NAME)
    return unique_images((stem if stem in labels else stem.removesuffix("_0000"), path) for stem, path in found.items())
