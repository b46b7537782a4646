"""AMOS22: 15 organs of the abdomen, in CT and in MR.

    root/
      dataset.json                 {"labels": {"0": "background", "1": "spleen", ...},
                                    "training": [{"image": "./imagesTr/amos_0001.nii.gz", "label": "./labelsTr/..."}]}
      imagesTr/amos_0001.nii.gz    MR from amos_0500 on
      labelsTr/amos_0001.nii.gz

Where both modalities are there, ``--layout amos:ct`` or ``amos:mr`` chooses one, and ``amos:ct,mr`` takes both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.json_files import read_object
from medsam_adapt.data.datasets.layouts import chosen_words, class_map, listed_cases, listed_images
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.image_set import ImageSource

NAME = "amos"
DESCRIPTION = "AMOS22: dataset.json, imagesTr/amos_0001.nii.gz, labelsTr/; from 0500 on MR; 15 abdominal organs"
CHOICES = {"ct": "the CTs", "mr": "the MRs"}
FIRST_MR = 500


def looks_like(root: Path) -> bool:
    """Whether there is a dataset.json, and an image has AMOS's name."""
    return (root / "dataset.json").is_file() and any((root / "imagesTr").glob("amos_*.nii*"))


def images(root: Path, choice: str = "") -> dict[str, ImageSource]:
    """Case id -> image of the modality chosen; raises InputError as `read`."""
    found = listed_images(root / "dataset.json")
    return {case_id: found[case_id] for case_id in _chosen(root, found, choice)}


def read(root: Path, need_labels: bool, choice: str = "") -> CaseList:
    """The cases that dataset.json lists for training, of the modality chosen.

    Raises:
        InputError: as `listed_cases` and `class_map`; an image without AMOS's name; both modalities and no choice.
    """
    source = root / "dataset.json"
    content = read_object(source)
    cases = [Case(**entry) for entry in listed_cases(source, content, need_labels)]
    chosen = _chosen(root, {case.id: case.image for case in cases}, choice)
    kept = tuple(case for case in cases if case.id in chosen)
    return CaseList(NAME, root, kept, class_map(content.get("labels"), source))


def _chosen(root: Path, found: Mapping[str, ImageSource], choice: str) -> list[str]:
    """Ids of the modality chosen, of ``found`` (id -> image)."""
    wanted = chosen_words(choice, CHOICES, NAME)
    problems = [
        f"{image} is not named amos_ and a number, which distinguishes CT and MR; rename it or use --layout msd"
        for case_id, image in found.items()
        if not re.fullmatch(r"amos_\d+", case_id)
    ]
    if problems:
        raise problems_error(problems)
    modality = {case_id: "mr" if int(case_id.removeprefix("amos_")) >= FIRST_MR else "ct" for case_id in found}
    if not wanted and len(set(modality.values())) > 1:
        counts = [f"{list(modality.values()).count(word)} {word.upper()}" for word in CHOICES]
        raise InputError(
            f"{root} holds {' and '.join(counts)} cases; choose with --layout {NAME}:ct or {NAME}:mr, "
            f"or take both with {NAME}:ct,mr (to train, with --set intensity=percentile)"
        )
    return [case_id for case_id in found if not wanted or modality[case_id] in wanted]
