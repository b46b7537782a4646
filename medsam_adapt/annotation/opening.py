"""The session of a folder: which scans are in it, and which classes are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medsam_adapt.annotation.label_files import LabelFiles
from medsam_adapt.annotation.session import Scan, Session
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import class_key
from medsam_adapt.data.datasets.cases import find_cases, recognised_layout
from medsam_adapt.data.datasets.scans import find_inputs
from medsam_adapt.data.volumes.image_set import ImageSource
from medsam_adapt.data.volumes.io import PICTURES
from medsam_adapt.data.volumes.label_coding import EXCLUSIVE

_LARGEST_CLASS = 255  # of a label in a byte


def open_session(
    folder: Path,
    classes: Sequence[str] = (),
    output: Path | None = None,
    series: str | None = None,
    person: str = "person",
    known: Mapping[int, str] | None = None,
    images: Sequence[str] = (),
    layout: str = "auto",
    report: Callable[[str], None] = lambda note: None,
) -> Session:
    """The session of a folder of scans; opens no volume and writes nothing.

    Args:
        folder: scans, or a data set in a layout that ``train`` knows, with labels or without, or the JSON file of a
            datalist.
        classes: names of the structures; those of the data set, of an earlier session, or ``known`` come first.
        output: where labels are written; beside ``folder`` when None.
        series: number, UID or description of the DICOM series wanted.
        person: who draws.
        known: label id -> name that a model knows.
        images: names of the images of a case that a model takes together, by which they are found where the folder is
            no data set.
        layout: a layout's name, with a choice where it has one; "auto" recognises it.
        report: called with each note on what was recognised, one sentence.

    Raises:
        InputError: no scans, no classes, classes that contradict an earlier session, or what a layout refuses.
    """
    if not (folder.is_dir() or (folder.is_file() and folder.suffix == ".json")):
        raise InputError(f"{folder}: it is not a folder. Give a folder of scans, or the JSON file of a datalist.")
    place = folder.absolute().with_suffix("") if folder.is_file() else folder.absolute()
    output = output or place.with_name(f"{place.name}_annotated")
    scans, named = _scans_in(folder, series, images, layout, report)
    earlier = LabelFiles(output).classes()
    names = _merged(named, earlier, dict(known or {}), [name.strip() for name in classes if name.strip()])
    if not names:
        raise InputError("--classes: none are given, and the folder has no labels.json. Give names as in liver,spleen.")
    if max(names) > _LARGEST_CLASS:
        raise InputError(f"{output}/labels.json: label ids go up to {_LARGEST_CLASS} here. Renumber the classes.")
    return Session(scans, names, output, person)


def _scans_in(
    folder: Path, series: str | None, images: Sequence[str], layout: str, report: Callable[[str], None]
) -> tuple[list[Scan], dict[int, str]]:
    """The scans, and the classes of labels that came with them."""
    known = recognised_layout(folder) if layout == "auto" else layout
    found = find_inputs(folder, layout, images=images or None, series=series)
    volumes = found.volumes
    for note in found.notes:
        report(note.replace(" to segment.", "."))  # what `predict` does with them
    scans = {id: Scan(id, image, series=_series_of(image, series)) for id, image in volumes.items()}
    if pictures := [path for path in volumes.values() if isinstance(path, Path) and path.suffix.lower() in PICTURES]:
        raise InputError(f"{pictures[0]}: it is a picture, and annotate draws on volumes. Give a folder of volumes.")
    classes: dict[int, str] = {}
    if known:
        chosen = f"{known}:{','.join(images)}" if images and known == "dicom" else known
        cases = find_cases(folder, chosen, need_labels=False, series=series)
        if cases.coding == EXCLUSIVE:
            classes = cases.classes
            labelled = [each for each in cases.cases if each.label]
            scans |= {each.id: Scan(each.id, each.image, each.label, each.series) for each in labelled}
        elif any(each.label_source for each in cases.cases):
            report(f"{folder}: its labels may overlap or be ignored in places, and annotate does not show such labels.")
    return [scans[id] for id in sorted(scans)], classes


def _series_of(image: ImageSource, series: str | None) -> str | None:
    """The series wanted of a folder of DICOM files; those of several images are known by their names."""
    return series if isinstance(image, Path) and image.is_dir() else None


def _merged(
    named: Mapping[int, str], earlier: Mapping[int, str], known: Mapping[int, str], added: Sequence[str]
) -> dict[int, str]:
    """All classes by label id: of an earlier session or the data set, of the model, and the ones added.

    Raises:
        InputError: the data set and the earlier session give one number to two classes.
    """
    names = dict(earlier or named)
    for number, name in named.items():
        if class_key(names.get(number, name)) != class_key(name):
            raise InputError(
                f"--output: an earlier session called label {number} '{names[number]}', and the folder calls it "
                f"'{name}'. Name another folder."
            )
        names.setdefault(number, name)
    wanted = {class_key(name) for name in added}
    suggested = {number: name for number, name in known.items() if not wanted or class_key(name) in wanted}
    for number, name in [*suggested.items(), *((0, name) for name in added)]:
        if class_key(name) not in {class_key(each) for each in names.values()}:
            free = number if number and number not in names else max(names, default=0) + 1
            names[free] = name
    return dict(sorted(names.items()))
