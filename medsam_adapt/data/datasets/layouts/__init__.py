"""On-disk layouts of data sets, one module each, found by listing this folder; and what these modules share.

A layout is a module that offers the names of `Layout`; its file name is its name for ``--layout``. Layouts are asked in
alphabetical order whether a folder looks like theirs, so each `looks_like` asks for something that only it has.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.json_files import read_object
from medsam_adapt.core.text import class_key, counted, did_you_mean
from medsam_adapt.data.volumes.case import CaseList
from medsam_adapt.data.volumes.formats.dicom import holds_dicom
from medsam_adapt.data.volumes.image_set import MOST_IMAGES, ImageSet, ImageSource, refuse_misplaced
from medsam_adapt.data.volumes.io import FORMATS, LARGEST_LABEL, is_slicer_label, volume_files, volume_stem


class Layout(Protocol):
    """What a layout's module offers.

    A layout that holds several data sets in one offers ``CHOICES`` too, word -> what it chooses, and its `read` takes
    the words that follow the name in ``--layout segrap:contrast`` as a third argument. One whose cases are folders of
    DICOM files offers ``TAKES_SERIES = True``, and its `read` takes the ``series`` wanted as a keyword.

    Attributes:
        NAME: the name for ``--layout``.
        DESCRIPTION: the folders and files it expects, in a few words.
    """

    NAME: str
    DESCRIPTION: str

    def looks_like(self, root: Path) -> bool:
        """Whether ``root`` (which exists) has what is particular to this layout; opens no volume."""

    def read(self, root: Path, need_labels: bool) -> CaseList:
        """The cases below ``root``; an image without a label is an InputError only where labels are needed."""

    def images(self, root: Path) -> Mapping[str, ImageSource]:
        """Case id -> image, or images, of the cases that `read` finds, with the same options; looks at no label."""


def layout_names() -> tuple[str, ...]:
    """Names of all layouts, in alphabetical order; imports none of them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def get_layout(name: str) -> Layout:
    """The layout's module; a choice after the name ("segrap:contrast") is left aside.

    Raises:
        InputError: no such layout.
    """
    name = name.partition(":")[0]
    if name not in (known := layout_names()):
        raise InputError(
            f"--layout {name}: there is no such layout.{did_you_mean(name, known)} Choose auto, {', '.join(known)}."
        )
    return cast("Layout", importlib.import_module(f"{__name__}.{name}"))


def read_layout(name: str, root: Path, need_labels: bool, series: str | None = None) -> CaseList:
    """The cases below ``root`` in the layout ``name``, with its choice if it carries one: "segrap:contrast".

    ``series`` is the DICOM series wanted of each case.

    Raises:
        InputError: no such layout, no such choice, or whatever the layout refuses.
    """
    layout, (_, _, choice) = get_layout(name), name.partition(":")
    if series is not None and hasattr(layout, "TAKES_SERIES"):
        return cast("Any", layout).read(root, need_labels, series=series)
    if not choice:
        return layout.read(root, need_labels)
    if not hasattr(layout, "CHOICES"):
        raise InputError(f"--layout {layout.NAME}: it has no choices, and {name!r} is one. Use --layout {layout.NAME}.")
    found = cast("Any", layout).read(root, need_labels, choice)
    return replace(found, layout=name)


def read_images(name: str, root: Path, series: str | None = None) -> dict[str, ImageSource]:
    """Case id -> image below ``root`` in the layout ``name``, as `read_layout`; looks at no label.

    Raises:
        InputError: no such layout, no such choice, or whatever the layout refuses.
    """
    layout, (_, _, choice) = cast("Any", get_layout(name)), name.partition(":")
    if choice and not hasattr(layout, "CHOICES"):
        raise InputError(f"--layout {layout.NAME}: it has no choices, and {name!r} is one. Use --layout {layout.NAME}.")
    if series is not None and hasattr(layout, "TAKES_SERIES"):
        return dict(layout.images(root, series=series))
    return dict(layout.images(root, choice) if choice else layout.images(root))


def chosen_words(choice: str, known: Iterable[str], layout: str) -> set[str]:
    """The words of a choice such as "contrast,tumours".

    Raises:
        InputError: a word that the layout does not know.
    """
    known, words = list(known), {word.strip() for word in choice.split(",") if word.strip()}
    if unknown := sorted(words - {*known}):
        raise InputError(
            f"--layout {layout}: it has no choice {unknown[0]!r}.{did_you_mean(unknown[0], known)} Write {layout}: and "
            f"one or more of {', '.join(known)}, separated by commas."
        )
    return words


# ------------------------------------------------------------------------------------------ shared by the layouts


def volumes_by_stem(folder: Path, layout: str, labels: bool = False) -> dict[str, Path]:
    """Stem -> volume directly in ``folder``, hidden files left out, and 3D Slicer's segmentations unless of ``labels``.

    Raises:
        InputError: no such folder, or two files of one stem.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: layout {layout} needs this folder, and it does not exist. Create it or name another --layout."
        )
    found: dict[str, Path] = {}
    for path in (path for path in volume_files(folder) if labels or not is_slicer_label(path)):
        if (other := found.setdefault(volume_stem(path), path)) != path:
            raise InputError(f"{path}: {other.name} has the same name but for the suffix. Remove one of them.")
    return found


def pair_by_id(
    images: Mapping[str, ImageSource], labels: Mapping[str, Path], need_labels: bool
) -> list[tuple[str, ImageSource, Path | None]]:
    """(id, image, label) of every image, sorted by id.

    Raises:
        InputError: a label without an image; an image without a label where labels are needed.
    """
    problems = [
        f"{labels[key]}: it has no image. Add the image or remove the label." for key in sorted({*labels} - {*images})
    ]
    if need_labels:
        missing = sorted({*images} - {*labels})
        problems += [f"{images[key]}: it has no label. Add the label or move the image elsewhere." for key in missing]
    if problems:
        raise problems_error(problems)
    return [(key, images[key], labels.get(key)) for key in sorted(images)]


def class_map(raw: Any, source: Path) -> dict[int, str]:
    """Label id -> name in ascending order, background left out.

    Args:
        raw: as files write it: {"1": "liver"}, {"liver": 1} or [{"id": 1, "name": "liver"}].
        source: the file, for the sentence.

    Raises:
        InputError: none of these forms, an id that no label can have, an id or a name given twice.
    """
    fix = 'Write them as {"1": "liver", "2": "spleen"}.'
    if isinstance(raw, list) and all(isinstance(entry, dict) for entry in raw):
        pairs = [(entry.get("id"), entry.get("name")) for entry in raw]
    elif isinstance(raw, dict):
        raw = {key: value for key, value in raw.items() if not (key == "annotated" and isinstance(value, dict))}
        pairs = [(key, value) if str(key).strip().isdecimal() else (value, key) for key, value in raw.items()]
    else:
        raise InputError(f"{source}: the labels are not a map of ids to names. {fix}")
    classes: dict[int, str] = {}
    taken: set[str] = set()
    for given, name in pairs:
        digits = isinstance(given, int | str) and not isinstance(given, bool) and str(given).strip().isdecimal()
        if not digits or not isinstance(name, str) or not name.strip() or int(given) > LARGEST_LABEL:
            raise InputError(f"{source}: {given!r} and {name!r} are not a label id and a name. {fix}")
        if int(given) in classes or class_key(name) in taken:
            raise InputError(f"{source}: the label {int(given)} or the name {name!r} is given twice. {fix}")
        classes[int(given)] = name.strip()
        taken.add(class_key(name))
    return {key: classes[key] for key in sorted(classes) if key != 0}


def listed_file(entry: Any, source: Path) -> Path:
    """The volume that an entry of the JSON file ``source`` names, relative to the file's folder and inside it.

    Raises:
        InputError: not a path, one that leads out of the folder, or no such file.
    """
    if not isinstance(entry, str) or not entry.strip():
        raise InputError(
            f"{source}: it has {json.dumps(entry)[:60]} where the path of one file is expected. Correct the entry."
        )
    # By name only: a link inside the folder is its owner's doing and may lead anywhere.
    folder = Path(os.path.normpath(source.parent.absolute()))
    path = Path(os.path.normpath(Path(folder, entry)))
    if not path.is_relative_to(folder):
        raise InputError(
            f"{source}: it names {entry}, which is outside its folder. Move the file in, or link to it there."
        )
    if holds_dicom(path):  # a series is a folder
        return path
    if not path.is_file():
        raise InputError(f"{source}: it names {entry}, which does not exist. Correct the entry or add the file.")
    if not path.name.lower().endswith(tuple(FORMATS)):
        raise InputError(
            f"{source}: it names {entry}, which is of no supported format ({', '.join(FORMATS)}). Convert it."
        )
    return path


def image_names(raw: Any, source: Path) -> tuple[str, ...]:
    """The names of the images of a case by their numbers, {"0": "T2", "1": "ADC"} or a list; none where there is none.

    Raises:
        InputError: another form, a name that is given twice, or more than four.
    """
    if raw is None:
        return ()
    if isinstance(raw, dict) and all(str(key).isdecimal() for key in raw):
        raw = [raw[key] for key in sorted(raw, key=int)]
    if not isinstance(raw, list) or not all(isinstance(name, str) and name.strip() for name in raw):
        raise InputError(f'{source}: it names its images in another form than {{"0": "T2", "1": "ADC"}}. Correct it.')
    names = tuple(name.strip() for name in raw)
    if len({class_key(name) for name in names}) < len(names):
        raise InputError(f"{source}: it gives two images of a case one name ({', '.join(names)}). Rename one of them.")
    if len(names) > MOST_IMAGES:
        raise InputError(
            f"{source}: it has {counted(len(names), 'image')} a case ({', '.join(names)}), and {MOST_IMAGES} are "
            "the most. Choose some."
        )
    return names


def _listed_image(entry: Any, names: tuple[str, ...], source: Path) -> ImageSource:
    """The image, or the images of a list, or of a 4D file where several are named."""
    if not isinstance(entry, list):
        path = listed_file(entry, source)
        return ImageSet(names, (path,)) if len(names) > 1 else path
    files = tuple(listed_file(each, source) for each in entry)
    if len(files) == 1:
        return files[0]
    names = names or image_names([f"image {number}" for number in range(1, len(files) + 1)], source)
    if len(names) != len(files):
        raise InputError(
            f"{source}: it lists {counted(len(files), 'image')} for a case and names {len(names)} "
            f"({', '.join(names)}). Correct it."
        )
    refuse_misplaced(names, files, source)
    return ImageSet(names, files)


def _listed_label(entry: Any, source: Path) -> dict[str, Any]:
    """{"label": file}, {"masks": {class id: file}} or, without a label, nothing."""
    if entry is None:
        return {}
    if not isinstance(entry, dict):
        return {"label": listed_file(entry, source)}
    if not entry or not all(key.isdecimal() and 0 < int(key) <= LARGEST_LABEL for key in entry):
        raise InputError(
            f'{source}: it has a label {json.dumps(entry)[:60]}. Write masks as {{"1": "mask.nii.gz", ...}}.'
        )
    return {"masks": {int(key): listed_file(path, source) for key, path in entry.items()}}


def listed_cases(source: Path, content: Mapping[str, Any], need_labels: bool) -> list[dict[str, Any]]:
    """Keyword arguments of a Case for each entry {image, label, id, patient, annotated} of ``content["training"]``.

    An image may be a list of the images of a case, or a 4D file, whose names are ``content["channel_names"]`` (or
    "modality", as in the Decathlon).

    An id that is not given is the image's stem. A label may be an object too, {class id: mask}, for classes that
    overlap. Entries for macOS's ``._x.nii.gz`` files are left out.

    Raises:
        InputError: every problem of every entry, as `listed_file`, and labels that are missing where needed.
    """
    entries = content.get("training")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(
            f'{source}: it has no list "training" of objects. Add [{{"image": "...", "label": "..."}}, ...].'
        )
    cases, problems = [], []
    names = image_names(content.get("channel_names", content.get("modality")), source)
    for entry in entries:
        if Path(str(entry.get("image"))).name.startswith("._"):
            continue
        try:
            image = _listed_image(entry.get("image"), names, source)
            if need_labels and entry.get("label") is None:
                raise InputError(f"{source}: it gives no label for {entry['image']}. Add it or remove the entry.")
            label = _listed_label(entry.get("label"), source)
        except InputError as error:
            problems.append(str(error))
            continue
        given = entry.get("id", entry.get("case_id"))
        patient, annotated = entry.get("patient"), entry.get("annotated")
        if annotated is not None and not isinstance(annotated, list):
            problems.append(f'{source}: "annotated" of {entry["image"]} is no list of classes. Write ["liver"].')
            continue
        cases.append(
            {
                "id": _case_id(image) if given is None else str(given),
                "image": image,
                **label,
                "patient": None if patient is None else str(patient),
                "annotated": None if annotated is None else tuple(map(str, annotated)),
            }
        )
    if problems:
        raise problems_error(problems)
    if len({images_of(each["image"]) for each in cases}) > 1:
        raise InputError(f"{source}: it lists cases with different numbers of images. Give each case the same images.")
    return cases


def images_of(image: ImageSource) -> tuple[str, ...]:
    """The names of the images of a case; none of one image."""
    return image.names if isinstance(image, ImageSet) else ()


def _case_id(image: ImageSource) -> str:
    """The name of the image, or of the first of several without what distinguishes it from the others."""
    if not isinstance(image, ImageSet) or image.is_4d:
        return volume_stem(image.first if isinstance(image, ImageSet) else image)
    stems = [volume_stem(path) for path in image.present]
    alike = (len({*letters}) == 1 for letters in zip(*stems, strict=False))
    common = stems[0][: sum(1 for _ in itertools.takewhile(bool, alike))]
    return re.sub(r"[_.\-\s][^_.\-\s]*$", "", common) or image.first.parent.name


def listed_images(source: Path) -> dict[str, ImageSource]:
    """Case id -> image of a JSON file's list, as `listed_cases`, whatever it lists as labels."""
    content = read_object(source)
    entries = content.get("training")
    if isinstance(entries, list):
        kept = [{k: v for k, v in entry.items() if k != "label"} for entry in entries if isinstance(entry, dict)]
        content = {**content, "training": kept if len(kept) == len(entries) else entries}
    return unique_images([(case["id"], case["image"]) for case in listed_cases(source, content, False)])


def unique_images(pairs: Iterable[tuple[str, ImageSource]]) -> dict[str, ImageSource]:
    """Case id -> image.

    Raises:
        InputError: two images of one id.
    """
    found: dict[str, ImageSource] = {}
    for case_id, path in pairs:
        if (other := found.setdefault(case_id, path)) != path:
            name = Path(str(other)).name
            raise InputError(f"{path}: {name} is an image of {case_id} too. Remove one of them.")
    return found
