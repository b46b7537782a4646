"""SegRap2023: 45 organs at risk of the head and neck, which overlap, and two tumour volumes, in CT.

    root/                                                      or the folder of the cases itself
      SegRap2023_Training_Set_120cases/
        segrap_0000/image.nii.gz, image_contrast.nii.gz        without and with contrast
        segrap_0000/Brain.nii.gz, BrainStem.nii.gz, ...        one mask for each structure
      SegRap2023_Training_Set_120cases_OneHot_Labels/
        Task001/segrap_0000.nii.gz                             the organs: a map of 54 disjoint parts, PARTS
        Task002/segrap_0000.nii.gz                             GTVp and GTVnd

Maps are read where they are, masks otherwise. ``--layout segrap:contrast`` takes the images with contrast,
``segrap:both`` those without and with contrast together, as channels; ``tumours`` takes Task002, as in
``segrap:both,tumours``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.data.datasets.layouts import chosen_words
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.image_set import ImageSet, ImageSource
from medsam_adapt.data.volumes.io import volume_files, volume_stem
from medsam_adapt.data.volumes.label_coding import LabelCoding

NAME = "segrap"
DESCRIPTION = "SegRap2023: segrap_0000/image.nii.gz with a mask for each of 45 organs, or ..._OneHot_Labels/Task001"
IMAGE_PAIR = ("image", "image_contrast")
CHOICES = {
    "contrast": "image_contrast.nii.gz instead of image.nii.gz",
    "both": "the two of them together, as channels",
    "tumours": "Task002, GTVp and GTVnd, instead of the organs",
}
# Organ -> the numbers in Task001's maps that make it up, in the order of those numbers: that of the challenge's own
# table and, as far as it is known here, of its submissions.
PARTS: dict[str, tuple[int, ...]] = {
    "Brain": (1, 2, 3, 4, 5, 6, 7, 8, 9),
    "BrainStem": (2,),
    "Chiasm": (3,),
    "TemporalLobe_L": (4, 6),
    "TemporalLobe_R": (5, 7),
    "Hippocampus_L": (8, 6),
    "Hippocampus_R": (9, 7),
    "Eye_L": (10, 12),
    "Eye_R": (11, 13),
    "Lens_L": (12,),
    "Lens_R": (13,),
    "OpticNerve_L": (14,),
    "OpticNerve_R": (15,),
    "MiddleEar_L": (18, 16, 20, 24, 28, 30),
    "MiddleEar_R": (19, 17, 21, 25, 29, 31),
    "IAC_L": (18,),
    "IAC_R": (19,),
    "TympanicCavity_L": (22, 20),
    "TympanicCavity_R": (23, 21),
    "VestibulSemi_L": (26, 24),
    "VestibulSemi_R": (27, 25),
    "Cochlea_L": (28,),
    "Cochlea_R": (29,),
    "ETbone_L": (32, 30),
    "ETbone_R": (33, 31),
    "Pituitary": (34,),
    "OralCavity": (35,),
    "Mandible_L": (36,),
    "Mandible_R": (37,),
    "Submandibular_L": (38,),
    "Submandibular_R": (39,),
    "Parotid_L": (40,),
    "Parotid_R": (41,),
    "Mastoid_L": (42,),
    "Mastoid_R": (43,),
    "TMjoint_L": (44,),
    "TMjoint_R": (45,),
    "SpinalCord": (46,),
    "Esophagus": (47,),
    "Larynx": (48, 49, 50, 51),
    "Larynx_Glottic": (49,),
    "Larynx_Supraglot": (50,),
    "PharynxConst": (51, 52),
    "Thyroid": (53,),
    "Trachea": (54,),
}
TUMOURS: dict[str, tuple[int, ...]] = {"GTVp": (1,), "GTVnd": (2,)}


def looks_like(root: Path) -> bool:
    """Whether a case has SegRap's name."""
    return _cases_folder(root) is not None


def is_case(folder: Path) -> bool:
    """Whether a folder is one case: of a case's name, or with masks of the challenge's structures beside an image."""
    found = volume_files(folder) if folder.is_dir() else []
    named = [path for path in found if path.name.startswith(tuple(IMAGE_PAIR))]  # few of what may be very many files
    if not {volume_stem(path) for path in named if path.is_file()} & {*IMAGE_PAIR}:
        return False
    files = {volume_stem(path) for path in found if path.is_file()}
    return re.fullmatch(r"segrap_\d+", folder.absolute().name) is not None or bool(files & {*PARTS, *TUMOURS})


def images(root: Path, choice: str = "") -> dict[str, ImageSource]:
    """Case id -> image, or both; ``root`` may be one case's folder. Raises InputError as `read`.

    An image that is not there is listed too, so that the error of reading it names that case alone.
    """
    names = _image_names(chosen_words(choice, CHOICES, NAME))
    places = [root] if is_case(root) else _case_folders(_checked_folder(root))
    absent = tuple(f"{name}.nii.gz" for name in names)
    return {
        place.absolute().name: _image(place, names)
        or (ImageSet(names, tuple(place / name for name in absent)) if len(names) > 1 else place / absent[0])
        for place in places
    }


def read(root: Path, need_labels: bool, choice: str = "") -> CaseList:
    """The cases, with the organs or the tumours as classes that may overlap.

    Raises:
        InputError: no folder of cases, an image that is not there, a case without label where labels are needed.
    """
    wanted = chosen_words(choice, CHOICES, NAME)
    folder, names = _checked_folder(root), _image_names(wanted)
    structures = TUMOURS if "tumours" in wanted else PARTS
    classes = dict(enumerate(structures, start=1))
    maps = _maps(root, folder, "Task002" if "tumours" in wanted else "Task001")
    cases, problems = [], []
    for place in _case_folders(folder):
        files = {volume_stem(path): path for path in volume_files(place)}
        if (image := _image(place, names)) is None:
            missing = next(name for name in names if name not in files)
            problems.append(f"{place}: it has no {missing}.nii.gz. Add it.")
            continue
        label = maps.get(place.name)
        masks = {} if label else {class_id: files[name] for class_id, name in classes.items() if name in files}
        if need_labels and not (label or masks):
            problems.append(f"{place}: it has no label in Task00{1 + ('tumours' in wanted)} and no mask. Add one.")
        cases.append(Case(place.name, image, label, masks=masks))
    if problems:
        raise problems_error(problems)
    return CaseList(
        NAME,
        root,
        tuple(cases),
        classes,
        coding=_coding(structures),
        intensity="ct-head-neck",
        images=IMAGE_PAIR if "both" in wanted else (),
    )


def _checked_folder(root: Path) -> Path:
    if (folder := _cases_folder(root)) is None:
        raise InputError(
            f"{root}: it has no file such as segrap_0000/image.nii.gz, which layout {NAME} needs. Name another "
            "--layout."
        )
    return folder


def _case_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("segrap_[0-9]*") if path.is_dir())


def _image_names(wanted: set[str]) -> tuple[str, ...]:
    """What the images of a case are called, by the words of the choice."""
    if {"contrast", "both"} <= wanted:
        raise InputError(f"--layout {NAME}: contrast and both exclude each other. Leave one of them out.")
    return IMAGE_PAIR if "both" in wanted else ("image_contrast" if "contrast" in wanted else "image",)


def _image(place: Path, names: Sequence[str]) -> ImageSource | None:
    """A case's image, or both where they are wanted; None where one is missing."""
    files = {volume_stem(path): path for path in volume_files(place)}
    if not {*names} <= files.keys():
        return None
    return ImageSet(tuple(names), tuple(files[name] for name in names)) if len(names) > 1 else files[names[0]]


def _coding(structures: dict[str, tuple[int, ...]]) -> LabelCoding:
    parts = {
        number: tuple(class_id for class_id, numbers in enumerate(structures.values(), start=1) if number in numbers)
        for number in range(1, 1 + max(number for numbers in structures.values() for number in numbers))
    }
    return LabelCoding(parts, overlapping=True)


def _cases_folder(root: Path) -> Path | None:
    """The folder that holds segrap_0000/: ``root`` or one below it."""
    below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return next((folder for folder in (root, *below) if any(folder.glob("segrap_[0-9]*/image*.nii*"))), None)


def _maps(root: Path, cases: Path, task: str) -> dict[str, Path]:
    """Case -> map of a task; from a folder of maps in ``root``, or beside the folder of the cases."""
    found = sorted({*root.glob(f"*_OneHot_Labels/{task}"), *cases.parent.glob(f"{cases.name}_OneHot_Labels/{task}")})
    return {volume_stem(path): path for folder in found for path in volume_files(folder)}
