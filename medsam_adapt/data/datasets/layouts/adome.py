"""ADOME, the layout and the classes of FLARE22: 13 organs of the abdomen in CT.

root/
  images/FLARE22_Tr_0001_0000.nii.gz    0000: the first channel
  labels/FLARE22_Tr_0001.nii.gz
"""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.core.errors import problems_error
from medsam_adapt.data.datasets.layouts import pair_by_id, volumes_by_stem
from medsam_adapt.data.volumes.case import Case, CaseList

NAME = "adome"
DESCRIPTION = "FLARE22: images/FLARE22_Tr_0001_0000.nii.gz, labels/FLARE22_Tr_0001.nii.gz; 13 abdominal organs"
CHANNEL = "_0000"
CLASSES = {
    1: "liver",
    2: "right kidney",
    3: "spleen",
    4: "pancreas",
    5: "aorta",
    6: "inferior vena cava",
    7: "right adrenal",
    8: "left adrenal",
    9: "gallbladder",
    10: "esophagus",
    11: "stomach",
    12: "duodenum",
    13: "left kidney",
}


def looks_like(root: Path) -> bool:
    """Whether an image has FLARE's name, and no datalist contradicts it."""
    return not (root / "datalist.json").is_file() and any((root / "images").glob(f"FLARE*{CHANNEL}.nii*"))


def images(root: Path) -> dict[str, Path]:
    """Case id -> image; raises InputError for an image without the channel number."""
    found = volumes_by_stem(root / "images", NAME)
    problems = [
        f"{path}: its name does not end in {CHANNEL}, as in layout {NAME}. Rename it or use --layout folder."
        for stem, path in found.items()
        if not stem.endswith(CHANNEL)
    ]
    if problems:
        raise problems_error(problems)
    return {stem.removesuffix(CHANNEL): path for stem, path in found.items()}


def read(root: Path, need_labels: bool) -> CaseList:
    """The cases; raises InputError as `images` and `pair_by_id`."""
    labels = volumes_by_stem(root / "labels", NAME, labels=True) if need_labels or (root / "labels").is_dir() else {}
    cases = tuple(Case(*row) for row in pair_by_id(images(root), labels, need_labels))
    return CaseList(NAME, root, cases, dict(CLASSES))
