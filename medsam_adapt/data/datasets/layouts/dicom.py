"""DICOM series, a folder for each case, and their labels as files of another format, DICOM SEG or RTSTRUCT.

    root/
      case_1/                     the series' files, or one folder that holds them, of any name (such as image, CT)
        label.nii.gz              or seg.nrrd, ...; or a SEG or RTSTRUCT file of any name, also into a separate folder
      labels.json                 optional: {"1": "liver", "2": "spleen"}
or
    root/
      images/case_1/              as above
      labels/case_1.nii.gz        or case_1.dcm, or a folder case_1 that holds the one file
      labels.json

DICOM labels carry the names of their structures: labels.json chooses among them, and without it all are classes, in
alphabetical order. Where a case's folder holds several series, or it has several folders of them, ``--series`` chooses
one, and ``--layout dicom:T2,ADC`` takes several together, by the names of folders or files or by the numbers or
descriptions of series.
Cases of one patient are never split between training and held-out.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.json_files import read_json
from medsam_adapt.core.text import class_key, counted
from medsam_adapt.data.datasets.layouts import class_map, image_names
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.dicom_labels import LABEL_KINDS, dicom_kind, structure_names
from medsam_adapt.data.volumes.formats.dicom import holds_dicom, holds_series, holds_volume, patient_key
from medsam_adapt.data.volumes.image_search import image_set, images_in_folder
from medsam_adapt.data.volumes.image_set import ImageSet, ImageSource
from medsam_adapt.data.volumes.io import FORMATS, is_slicer_label, volume_files, volume_stem
from medsam_adapt.data.volumes.label_coding import EXCLUSIVE, LabelCoding
from medsam_adapt.data.volumes.slicer_labels import segments_of

NAME = "dicom"
DESCRIPTION = "a folder with a DICOM series for each case, its label beside it or in labels/ (NIfTI, SEG or RTSTRUCT)"
TAKES_SERIES = True
CHOICES = {"T2,ADC": "the series of these names, numbers or descriptions, together"}
_NO_IMAGES = {*LABEL_KINDS, "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "REG", "PR", "SR", "KO", "DOC", "AU", "ECG"}
LABEL_NAMES = {"label", "labels", "seg", "segmentation", "mask"}


@dataclass(frozen=True)
class _Found:
    """One case's folder of images, and its label's file if there is one."""

    id: str
    image: ImageSource
    label: Path | None

    @property
    def folder(self) -> Path:
        """Of the series that the label was drawn on."""
        return self.image.first if isinstance(self.image, ImageSet) else self.image

    def series(self, wanted: str | None) -> str | None:
        """The series that the label was drawn on, where its folder holds several."""
        return next(iter(self.image.series), None) if isinstance(self.image, ImageSet) else wanted


def looks_like(root: Path) -> bool:
    """Whether a folder below ``root`` or below its images/, or a folder in one of these, holds DICOM files."""
    images = root / "images"
    if not root.is_dir() or (images.is_dir() and any(path.is_file() for path in volume_files(images))):
        return False  # images of other formats among them: layout folder reads both
    return any(holds_dicom(folder) for case in _case_folders(root) for folder in (case, *_folders(case)))


def case_image(folder: Path) -> Path | None:
    """The folder of the images of a folder that is one case, with a label beside them; None for any other folder."""
    found = list(itertools.islice((path for path in (folder, *_folders(folder)) if _holds_images(path)), 2))
    if len(found) != 1:
        return None
    inside = found[0] != folder  # a label among a series' own files makes the series' folder the case, not this one
    labels = [path for path in _labels_beside(folder) if not (inside and path.parent == found[0])]
    others = [path for path in volume_files(folder) if path.is_file() and path not in labels]
    return found[0] if labels and not others else None


def images(root: Path, choice: str = "", series: str | None = None) -> dict[str, ImageSource]:
    """Case id -> folder of its images, or its images; raises InputError for every case with several of them."""
    found: dict[str, ImageSource] = {}
    problems = []
    for folder in _case_folders(root):
        try:
            if (image := _image_of(folder, series, _words(choice))) is not None:
                found[folder.name] = image
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise problems_error(problems)
    return found


def read(root: Path, need_labels: bool, choice: str = "", series: str | None = None) -> CaseList:
    """The cases; DICOM labels are converted once, and kept.

    Args:
        root, need_labels: as for every layout.
        choice: the images of a case that are taken together, with commas.
        series: number, UID or description of the series wanted of each case.

    Raises:
        InputError: every case without one folder of images, or with several labels, or without one where it is needed;
            labels of which some are DICOM and no labels.json names the others' classes; and as `converted_label`.
    """
    found, problems = [], []
    for folder in _case_folders(root):
        try:
            if (case := _find(root, folder, need_labels, series, _words(choice))) is not None:
                found.append(case)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise problems_error(problems)
    classes = _classes(root, found)
    patients = _patients(found)
    cases = [_case(case, classes, patients.get(case.id), series) for case in found]
    overlapping = any(case.masks for case in cases)
    coding = LabelCoding(overlapping=True) if overlapping else EXCLUSIVE
    return CaseList(NAME, root, tuple(cases), classes, coding=coding, images=_words(choice))


def _words(choice: str) -> tuple[str, ...]:
    """The names of the images that are taken together; none where there is no choice."""
    names = image_names([word.strip() for word in choice.split(",") if word.strip()] or None, Path(f"{NAME}:{choice}"))
    if len(names) == 1:
        raise InputError(f"--layout {NAME}:{choice}: it chooses one series. Name several with commas, or use --series.")
    return names


def _image_of(folder: Path, series: str | None, names: tuple[str, ...]) -> ImageSource | None:
    """The images of a case: its one folder, or those of these names; None for a folder without DICOM images."""
    if not names:
        return _image_folder(folder, series)
    found = images_in_folder(folder, names)
    return image_set(folder.parent, folder.name, found, names) if found else None


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _case_folders(root: Path) -> list[Path]:
    return _folders(root / "images" if (root / "images").is_dir() else root)


# ------------------------------------------------------------------------------------------------- images and labels


def _find(root: Path, folder: Path, need_labels: bool, series: str | None, names: tuple[str, ...]) -> _Found | None:
    """One case; None for a folder without DICOM images."""
    if (image := _image_of(folder, series, names)) is None:
        return None
    labels = [*_labels_beside(folder)]
    if root / "images" == folder.parent:
        labels += _labels_apart(root / "labels", folder.name)
    if len(labels) > 1:
        raise InputError(f"{folder}: it has {counted(len(labels), 'label')}. Keep one of them, and move the others.")
    if need_labels and not labels:
        raise InputError(f"{folder}: it has no label. Add label.nii.gz, or move the folder elsewhere.")
    return _Found(folder.name, image, labels[0] if labels else None)


def _image_folder(folder: Path, series: str | None) -> Path | None:
    """The folder of a case's DICOM images: its own or one in it; None where there is none."""
    found = [path for path in (folder, *_folders(folder)) if _holds_images(path)]
    if len(found) > 1 and series is not None:
        found = [path for path in found if holds_series(path, series)] or found
    if len(found) > 1:  # screenshots, scouts and other images that are no volume have separate folders
        found = [path for path in found if holds_volume(path)] or found
    if len(found) > 1:
        raise InputError(
            f"{folder}: it has several folders of DICOM images. Keep one of them for each case and move the others, or "
            "choose one series with --series (to train, copy the data with 'medsam-adapt data convert --series' first)."
        )
    return found[0] if found else None


def _kinds(folder: Path) -> Iterator[tuple[Path, str]]:
    """The DICOM files of a folder and their modalities; files named as volumes of other formats are not opened."""
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if not (entry.name.startswith(".") or entry.name.lower().endswith(tuple(FORMATS))) and entry.is_file()
        )
    for name in names:
        if kind := dicom_kind(folder / name):
            yield folder / name, kind


def _holds_images(folder: Path) -> bool:
    return any(kind not in _NO_IMAGES for _, kind in _kinds(folder))


def _labels_beside(case: Path) -> Iterator[Path]:
    for folder in (case, *_folders(case)):
        yield from (path for path, kind in _kinds(folder) if kind in LABEL_KINDS)
        for path in sorted(folder.iterdir()):
            named = path.name.lower().endswith(tuple(FORMATS)) and not path.name.startswith(".") and path.is_file()
            if named and volume_stem(path).lower() in LABEL_NAMES:
                yield path


def _labels_apart(labels: Path, case_id: str) -> Iterator[Path]:
    names = {f"{case_id}{suffix}" for suffix in (*FORMATS, ".dcm")}
    if labels.is_dir():
        yield from (path for path in sorted(labels.iterdir()) if path.name in names and path.is_file())
    if (labels / case_id).is_dir():
        yield from _labels_beside(labels / case_id)


# ----------------------------------------------------------------------------------------------- classes and patients


def _is_named(path: Path | None) -> bool:
    """Whether a label names its structures: DICOM's, and 3D Slicer's where it describes segments."""
    if path is None:
        return False
    return bool(segments_of(path)) if is_slicer_label(path) else not path.name.lower().endswith(tuple(FORMATS))


def _classes(root: Path, found: list[_Found]) -> dict[int, str]:
    names = root / "labels.json"
    if names.is_file():
        return class_map(read_json(names), names)
    dicom = [case.label for case in found if case.label is not None and _is_named(case.label)]
    if not dicom:
        return {}
    if len(dicom) < sum(case.label is not None for case in found):
        raise InputError(
            f"{root}: it has DICOM labels, which name their classes, beside others, which do not. Add "
            'labels.json, such as {"1": "liver"}.'
        )
    by_key: dict[str, str] = {}
    for path in dicom:
        for name in structure_names(path).values():
            by_key.setdefault(class_key(name), name)
    return {number: by_key[key] for number, key in enumerate(sorted(by_key), start=1)}


def _patients(found: list[_Found]) -> dict[str, str]:
    """Case id -> id of the first case of the same patient, for those that name their patient.

    The patient's own identifier goes no further than here. One that all cases share was put there to hide it.
    """
    keys = {case.id: key for case in found if (key := patient_key(case.folder))}
    if len({*keys.values()}) < 2:
        return {}
    first: dict[str, str] = {}
    for case_id, key in keys.items():
        first.setdefault(key, case_id)
    return {case_id: first[key] for case_id, key in keys.items()}


def _case(case: _Found, classes: dict[int, str], patient: str | None, series: str | None) -> Case:
    if case.label is None or not _is_named(case.label):
        return Case(case.id, case.image, case.label, patient, {}, series)
    from medsam_adapt.data.volumes.dicom_conversion import converted_label

    found = converted_label(case.label, case.folder, classes, case.series(series))
    return Case(case.id, case.image, found.label, patient, found.masks, series, found.problems, found.notes)
