"""The images of cases found by the names that a run knows them by, in a file or folder that is no data set.

scan.nii.gz                                  one 4D file, its images in the run's order
case/T2.nii.gz, case/ADC.nii.gz              one folder for each case, or the folder of one case
case_T2.nii.gz, case_ADC.nii.gz              the name behind the case's
case_0000.nii.gz, case_0001.nii.gz           nnU-Net's numbers, in the run's order
case/<folders or files of DICOM series>      folders, numbers or descriptions of series that are called T2 and ADC
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.text import class_key, counted
from medsam_adapt.data.volumes.files import is_slicer_label, volume_files, volume_stem
from medsam_adapt.data.volumes.formats.dicom import holds_dicom, holds_series
from medsam_adapt.data.volumes.formats.nifti import images_in
from medsam_adapt.data.volumes.image_set import ImageSet

_NIFTI = (".nii", ".nii.gz")


def find_image_sets(source: Path, names: Sequence[str], may_lack: bool = False) -> dict[str, ImageSet]:
    """Case id -> its images; opens no volume but to count the images of a 4D file.

    Args:
        source: a file or a folder.
        names: of the images that a run takes together, in its order.
        may_lack: whether a case may lack some of them.

    Raises:
        InputError: no case, or every image that is missing.
    """
    if source.is_file():
        _check_4d(source, names)
        return {volume_stem(source): ImageSet(tuple(names), (source,))}
    found: dict[str, dict[str, ImageFile]] = {}
    own = images_in_folder(source, names)
    if own:
        found[source.absolute().name] = own
    else:
        for folder in _folders(source):
            if inside := images_in_folder(folder, names):
                found[folder.name] = inside
    found = found or _by_ending(source, names)
    if not found:
        files = [path for path in volume_files(source) if path.is_file() and _is_4d(path)] if source.is_dir() else []
        for path in files:
            _check_4d(path, names)
        if not files:
            raise InputError(
                f"{source}: it holds no case with the images {_listed(names)}, which this run takes together. Give "
                f"folders with {names[0]}.nii.gz and so on, files such as case_{names[0]}.nii.gz, or 4D files."
            )
        return {volume_stem(path): ImageSet(tuple(names), (path,)) for path in files}
    return {case: image_set(source, case, files, names, may_lack) for case, files in sorted(found.items())}


ImageFile = tuple[Path, str | None]  # a file or folder, and the series wanted of it


def image_set(
    source: Path, case: str, files: Mapping[str, ImageFile], names: Sequence[str], may_lack: bool = False
) -> ImageSet:
    """The images of a case by name.

    Raises:
        InputError: the images that are missing.
    """
    missing = [name for name in names if name not in files]
    if missing and not may_lack:
        raise InputError(
            f"{source}: the case {case} has no image {_listed(missing)}. Add it: {_listed(names)} are taken together "
            "(a run that was trained with --set channel_dropout=0.2 can do without)."
        )
    chosen = [files.get(name, (None, None)) for name in names]
    series = tuple(each for _, each in chosen)
    return ImageSet(tuple(names), tuple(path for path, _ in chosen), series=series if any(series) else ())


def folder_images(folder: Path) -> dict[str, ImageFile]:
    """Name -> image of a folder that is one case: the stems of its files, or its folders of DICOM files."""
    return {
        volume_stem(path): (path, None) for path in volume_files(folder) if path != folder and not is_slicer_label(path)
    }


def common_names(source: Path, cases: Mapping[str, Mapping[str, ImageFile]]) -> tuple[str, ...]:
    """The names of the images of all cases, in alphabetical order.

    Raises:
        InputError: every case that lacks an image which another one has.
    """
    names = sorted({name for files in cases.values() for name in files})
    problems = [
        f"{source}: the case {case} has no image {_listed(missing)}, which others have. Add it, or remove the case."
        for case, files in cases.items()
        if (missing := [name for name in names if name not in files])
    ]
    if problems:
        raise problems_error(problems)
    return tuple(names)


def images_in_folder(folder: Path, names: Sequence[str]) -> dict[str, ImageFile]:
    """The images in a folder that is one case, by name."""
    if not folder.is_dir():
        return {}
    by_key = {class_key(stem): file for stem, file in folder_images(folder).items()}
    found = {name: by_key[class_key(name)] for name in names if class_key(name) in by_key}
    if found:
        return found
    places = [path for path in (folder, *_folders(folder)) if holds_dicom(path)]
    for name in names:
        holding = [place for place in places if holds_series(place, name)]
        if len(holding) == 1:
            found[name] = (holding[0], name)
    return found


def _by_ending(folder: Path, names: Sequence[str]) -> dict[str, dict[str, ImageFile]]:
    """Case -> images, by the names or else nnU-Net's numbers that end those of files."""
    files = [path for path in volume_files(folder) if not is_slicer_label(path)] if folder.is_dir() else []
    by_name = {name: r"[\s_-]+".join(map(re.escape, class_key(name).split())) for name in names}
    by_number = {name: f"{number:04d}" for number, name in enumerate(names)}
    for endings in (by_name, by_number):
        found: dict[str, dict[str, ImageFile]] = {}
        for path in files:
            for name in sorted(names, key=len, reverse=True):  # "image contrast" before "contrast"
                if match := re.fullmatch(rf"(.+?)[_.\s-]+{endings[name]}", volume_stem(path), re.IGNORECASE):
                    found.setdefault(match[1], {})[name] = (path, None)
                    break
        if found:
            return found
    return {}


def _is_4d(path: Path) -> bool:
    return path.name.lower().endswith(_NIFTI) and images_in(path) > 1


def _check_4d(path: Path, names: Sequence[str]) -> None:
    count = images_in(path) if path.name.lower().endswith(_NIFTI) else 1
    if count != len(names):
        raise InputError(
            f"{path}: it holds {counted(count, 'image')}, and this run takes {_listed(names)} together. Give a folder "
            "of them, or a 4D file."
        )


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
