"""BTCV, "Beyond the Cranial Vault": 13 organs of the abdomen in CT.

    root/                             as Synapse gives it, or RawData/Training/ below it
      img/img0001.nii.gz              or imagesTr/img0001.nii.gz
      label/label0001.nii.gz          or labelsTr/label0001.nii.gz

With a dataset.json beside imagesTr/ it is read as layout msd.
"""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.data.datasets.layouts import pair_by_id, volumes_by_stem
from medsam_adapt.data.volumes.case import Case, CaseList

NAME = "btcv"
DESCRIPTION = "BTCV: img/img0001.nii.gz and label/label0001.nii.gz, or imagesTr/ and labelsTr/; 13 abdominal organs"
FOLDERS = (("img", "label"), ("imagesTr", "labelsTr"))
BELOW = ("", "Training", "RawData/Training", "RawData")
CLASSES = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior vena cava",
    10: "portal vein and splenic vein",
    11: "pancreas",
    12: "right adrenal",
    13: "left adrenal",
}


def _folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of images and labels, if there are some with BTCV's names."""
    for below in BELOW:
        for images, labels in FOLDERS:
            listed = images == "imagesTr" and (root / below / "dataset.json").is_file()
            if not listed and any((root / below / images).glob("img[0-9][0-9][0-9][0-9].nii*")):
                return root / below / images, root / below / labels
    return None


def looks_like(root: Path) -> bool:
    """Whether an image has BTCV's name."""
    return _folders(root) is not None


def images(root: Path) -> dict[str, Path]:
    """Case number -> image; raises InputError as `read`."""
    return _numbered(_checked_folders(root)[0], "img")


def read(root: Path, need_labels: bool) -> CaseList:
    """The cases, named by their number; raises InputError for files of another name and what `pair_by_id` refuses."""
    _, folder = _checked_folders(root)
    labels = _numbered(folder, "label") if need_labels or folder.is_dir() else {}
    cases = tuple(Case(*row) for row in pair_by_id(images(root), labels, need_labels))
    return CaseList(NAME, root, cases, dict(CLASSES))


def _checked_folders(root: Path) -> tuple[Path, Path]:
    if (folders := _folders(root)) is None:
        raise InputError(
            f"{root}: it has no file such as img/img0001.nii.gz, which layout {NAME} needs. Name another --layout."
        )
    return folders


def _numbered(folder: Path, prefix: str) -> dict[str, Path]:
    found = volumes_by_stem(folder, NAME)
    problems = [
        f"{path}: its name does not begin with {prefix}, as in layout {NAME}. Rename it or move it elsewhere."
        for stem, path in found.items()
        if not stem.startswith(prefix)
    ]
    if problems:
        raise problems_error(problems)
    return {stem.removeprefix(prefix): path for stem, path in found.items()}
