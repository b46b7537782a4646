"""What ``predict --input`` names: one volume, a folder of volumes, or a data set in a layout that ``train`` knows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.text import class_key, counted
from medsam_adapt.data.datasets.cases import find_images, recognised_layout
from medsam_adapt.data.datasets.layouts import dicom, nnunet, segrap
from medsam_adapt.data.volumes.files import suffix_of
from medsam_adapt.data.volumes.image_search import find_image_sets
from medsam_adapt.data.volumes.image_set import ImageSet, ImageSource, in_order, refuse_other_images
from medsam_adapt.data.volumes.io import FORMATS, is_slicer_label, picture_files, volume_files, volume_stem

# What ends the names of labels that programs, ours among them, write beside an image.
_LABEL_ENDINGS = ("_seg", "_label", "_labels", "_mask", "_uncertainty", "-label", "-seg", ".seg")
_NUMBERS = {f"_{number:04d}" for number in range(4)}  # nnU-Net's, at the end of a channel's file name
_DEPTH, _SUGGESTED, _MOST_FOLDERS = 3, 3, 2000  # of the search for volumes in folders below


@dataclass(frozen=True)
class Inputs:
    """Volumes to segment.

    Attributes:
        volumes: name -> file or folder, or the images of a case; the name is the case's id in a layout, else the
            file's without its suffix.
        notes: what was recognised and what was left out, in sentences.
    """

    volumes: Mapping[str, ImageSource]
    notes: tuple[str, ...] = ()


def find_inputs(
    source: Path,
    layout: str = "auto",
    known_layout: str = "",
    images: Sequence[str] | None = (),
    series: str | None = None,
    classes: Sequence[str] = (),
    may_lack: bool = False,
) -> Inputs:
    """The volumes that ``source`` names; opens none of them, and takes no label for an image.

    Args:
        source: a volume, a DICOM folder, a folder of either, a data set's folder, or the JSON file of a datalist.
        layout: a layout's name, with a choice where it has one; "auto" recognises it.
        known_layout: of the run's training data; its choice, as in "segrap:contrast", holds for the same layout here.
        images: names of the images of a case that the run takes together; none for one. None to take whatever
            images the cases of a layout have.
        series: number, UID or description of the DICOM series wanted.
        classes: names of what the run segments: files of these names beside others are masks.
        may_lack: whether an image of a case may be missing.

    Raises:
        InputError: nothing there, no volume, volumes whose outputs would have one name, or what a layout refuses.
    """
    if not source.exists():
        raise InputError(f"{source}: it does not exist. Give a volume or a folder of volumes.")
    if layout == "auto":
        if not images and source.is_dir() and (image := dicom.case_image(source)) is not None:
            return Inputs({source.absolute().name: image})
        layout = _recognised(source)
    if layout:
        return _of_layout(source, layout, known_layout, images, series, may_lack)
    if images:
        return _image_sets(source, images, may_lack)
    if source.is_file():
        return Inputs(_by_name([source]))
    files = volume_files(source) or picture_files(source)
    cases = dicom.images(source, series=series) if dicom.looks_like(source) else {}
    folders = [path for path in files if path.is_dir()]
    alone = sorted({*files} - {*folders}) if folders else files
    names = {path: path.name[: -len(suffix_of(path))] for path in alone}  # `volume_stem` would ask the disk again
    names |= {path: case_id for case_id, path in cases.items() if isinstance(path, Path)} or {
        path: volume_stem(path) for path in folders
    }
    if not names:
        raise InputError(_no_volume(source))
    kept, labels = _apart(names, {*alone}, {class_key(name) for name in classes})
    notes: tuple[str, ...] = ()
    if labels:
        named = ", ".join(path.name for path in labels[:_SUGGESTED]) + ", …" * (len(labels) > _SUGGESTED)
        notes = (f"{source}: left out {counted(len(labels), 'file')} named as labels ({named}).",)
    return Inputs(_by_name(kept, names), notes)


def _recognised(source: Path) -> str:
    """The layout of a folder or a datalist; empty for one volume and for a folder that holds volumes itself."""
    if source.is_file():
        return "datalist" if source.suffix.lower() == ".json" else ""
    if segrap.is_case(source):
        return segrap.NAME
    if source.name in nnunet.IMAGE_FOLDERS and nnunet.looks_like(source.parent):
        return nnunet.NAME
    layout = recognised_layout(source) or ""
    # Series beside files of other formats are volumes alike, which layout dicom would leave out.
    return "" if layout == "dicom" and any(path.is_file() for path in volume_files(source)) else layout


def _of_layout(
    source: Path, layout: str, known_layout: str, images: Sequence[str] | None, series: str | None, may_lack: bool
) -> Inputs:
    name, _, choice = layout.partition(":")
    if not choice and known_layout.partition(":")[0] == name:
        layout = known_layout
    if images and name == segrap.NAME:
        layout = f"{segrap.NAME}:both"
    if images and name in ("dicom", "folder") and not choice:  # their images are found by the run's own names
        found = _image_sets(source / "images" if (source / "images").is_dir() else source, images, may_lack)
        volumes, notes = dict(found.volumes), found.notes
    else:
        layout, listed = find_images(source, layout, series)
        volumes, notes = (listed, ()) if images is None else _in_order(source, listed, images)
    several = any(isinstance(image, ImageSet) for image in volumes.values())
    count = f"{counted(len(volumes), 'case')}" if several else _images(len(volumes))
    return Inputs(volumes, (f"{source} looks like the layout '{layout}': {count} to segment.", *notes))


def _images(count: int) -> str:
    return f"{counted(count, 'image')}"


def _in_order(
    source: Path, volumes: Mapping[str, ImageSource], images: Sequence[str]
) -> tuple[dict[str, ImageSource], tuple[str, ...]]:
    """The images of each case in the order of the run, by their names, and a note where that is another order.

    Raises:
        InputError: a data set with other images than the run takes.
    """
    ordered: dict[str, ImageSource] = {}
    notes: tuple[str, ...] = ()
    for case, image in volumes.items():
        names = image.names if isinstance(image, ImageSet) else ()
        if names == tuple(images):
            ordered[case] = image
            continue
        turned = in_order(image, images) if isinstance(image, ImageSet) else None
        if turned is None:
            refuse_other_images(names, images, source, "this run")
            ordered[case] = image
            continue
        ordered[case] = turned
        notes = (f"{source}: its images are {', '.join(names)}; the run takes them as {', '.join(images)}.",)
    return ordered, notes


def _image_sets(source: Path, images: Sequence[str], may_lack: bool) -> Inputs:
    """The images of each case by the run's names; a note where the files do not state which image is which."""
    found = find_image_sets(source, images, may_lack)
    notes = [
        f"{source}: the case {case} has no {', '.join(each.missing)}; it is segmented without."
        for case, each in found.items()
        if each.missing
    ]
    order = ", ".join(images)
    if any(each.is_4d for each in found.values()):
        notes.append(f"{source}: its images are taken to be {order}, in this order, which 4D files do not name.")
    elif any(each.first.name.split(".")[0][-5:] in _NUMBERS for each in found.values()):
        notes.append(f"{source}: _0000, _0001, … are taken to be {order}, in this order, which the files do not name.")
    return Inputs(found, tuple(notes))


def _by_name(paths: Sequence[Path], names_of: Mapping[Path, str] | None = None) -> dict[str, Path]:
    """Name -> volume, by what ``names_of`` calls it or else its file; refuses two whose outputs would have one name."""
    names: dict[str, Path] = {}
    known = names_of or {}
    problems = []
    for path in paths:
        name = known.get(path) or volume_stem(path)
        if (other := names.setdefault(name, path)) != path:
            problems.append(f"{path}: the output of {other.name} would have the same name. Rename one of them.")
    if problems:
        raise problems_error(problems)
    return names


def _apart(names: Mapping[Path, str], files: Collection[Path], classes: set[str]) -> tuple[list[Path], list[Path]]:
    """Images, and the labels among them, which are files; where all are named as labels, they are what is wanted."""
    stems = {*names.values()}
    labels = {path for path in files if is_slicer_label(path) or _is_label(names[path], stems, classes)}
    if len(labels) == len(names):
        return list(names), []
    return [path for path in names if path not in labels], [path for path in names if path in labels]


def _is_label(stem: str, stems: set[str], classes: set[str]) -> bool:
    """Whether a file is named as a label: as a class, ``label`` or alike, or as an image with an ending."""
    lower = stem.lower()
    if lower.endswith(".seg") or lower in dicom.LABEL_NAMES or class_key(stem) in classes:
        return True
    return any(lower.endswith(ending) and stem[: -len(ending)] in stems for ending in _LABEL_ENDINGS)


def _no_volume(folder: Path) -> str:
    sentence = f"{folder}: it has no volume ({', '.join(FORMATS)}, DICOM)"
    below = list(_folders_with_volumes(folder))
    if not below:
        return f"{sentence}. Give a volume or a folder of volumes."
    listed = " or ".join(str(path) for path in below[:_SUGGESTED]) + " …" * (len(below) > _SUGGESTED)
    return f"{sentence}, but folders in it do. Give {listed}."


def _folders_with_volumes(folder: Path) -> Iterator[Path]:
    """Up to one more than are suggested of the nearest folders below that hold volumes or pictures themselves."""
    found, level, looked_at = 0, [folder], 0
    for _ in range(_DEPTH):
        level = [path for each in level for path in _visible_folders(each)]
        for path in level:
            looked_at += 1
            if looked_at > _MOST_FOLDERS or found > _SUGGESTED:
                return
            if volume_files(path) or picture_files(path):
                found += 1
                yield path


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
