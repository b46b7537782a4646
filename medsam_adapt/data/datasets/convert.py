"""A data set of any layout as a plain copy: compressed NIfTI and a datalist.json.

    OUT/datalist.json         classes and cases, written last: without it the copy is not finished
        images/<id>.nii.gz    or images/<id>/<name>.nii.gz, of several images of a case, all on the first one's grid
        labels/<id>.nii.gz    or labels/<id>/<class id>_<name>.nii.gz, where classes overlap
        .converting.json      what is being copied, until all parts of it are finished

Free text of headers, which may name the patient, is left behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.files import folder_replaced, write_json
from medsam_adapt.core.json_files import peek_object
from medsam_adapt.core.parts import Part
from medsam_adapt.core.text import counted
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.datasets.relabel import Changes, relabel
from medsam_adapt.data.datasets.survey import survey_cases
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.image_set import ImageSet
from medsam_adapt.data.volumes.io import picture_files, read_volume, write_label, write_volume
from medsam_adapt.data.volumes.label_coding import IGNORED, MOST_CLASSES, PartMasks, read_classes

LIST_FILE, STATE_FILE = "datalist.json", ".converting.json"
MARK = "converted_by_medsam_adapt"  # in a datalist.json whose folder may be replaced

Progress = Callable[[str, str, int], None]  # what is done, to which case, of how many


@dataclass(frozen=True)
class Converted:
    """What `convert_cases` made.

    Attributes:
        classes: label id -> name in the copy.
        cases: ids of all cases.
        unlabelled: ids of those without a label.
        finished: whether all cases are there; false where other parts are not copied yet.
    """

    classes: dict[int, str]
    cases: tuple[str, ...]
    unlabelled: tuple[str, ...]
    finished: bool = True


def convert_cases(
    root: str | Path,
    output: str | Path,
    layout: str = "auto",
    changes: Changes | None = None,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    series: str | None = None,
    part: Part | None = None,
) -> Converted:
    """Copy a data set; a copy that was interrupted is gone on with, file by file.

    Several processes may copy a part of the cases each; the one after which all cases are there writes the list.

    Args:
        root: the data set.
        output: the folder to make.
        layout: the layout of ``root``, or "auto".
        changes: other ids and names for its labels.
        classes: names, after the changes, of the classes to keep; all when None.
        overwrite: replace a copy that is there.
        progress: called when a case has been checked, and when it has been copied.
        series: as for `find_cases`.
        part: of the cases, by their ids; all of them when None.

    Raises:
        InputError: all problems of all files that are copied, before anything is written; changes that do not fit; an
            output that is there already, is not ours, or cannot be written.
    """
    root, output = Path(root), Path(output)
    cases = find_cases(root, layout, need_labels=False, series=series)
    _check_place(root, output)
    if len(cases.classes) > MOST_CLASSES:
        raise InputError(
            f"{root}: it has {counted(len(cases.classes), 'class')}, and at most {MOST_CLASSES} can be converted. "
            "Choose fewer with --classes."
        )
    if cases.coding.ignored and cases.coding.overlapping:
        raise InputError(
            f"{root}: it marks voxels as ignored where its classes overlap, which masks cannot hold. Train on it as it "
            "is."
        )
    if pictures := picture_files(cases.cases[0].first_image.parent):
        raise InputError(
            f"{root}: it holds pictures, as {pictures[0].name}, and a copy holds volumes. Train on it as it is."
        )
    if part is not None and overwrite:
        raise InputError("--overwrite: parts cannot replace a copy, which others are writing to. Remove it first.")
    own = cases if part is None else _of_part(cases, part)
    begun = _is_begun(output, cases, overwrite, own if part is not None else None)
    # Without names, which classes there are is known when all labels are read, whatever part they are in.
    seen = survey_cases(
        own if cases.classes else cases,
        None if progress is None else lambda case, total: progress("checking", case, total),
        lambda case: not (begun and _are_newer(_images(output, case), case.images)),
    )
    if seen.problems:
        raise problems_error(seen.problems)
    names, new_ids = relabel(seen.check.classes, changes, classes)
    state = {"source": str(root.resolve()), "layout": cases.layout, "labels": names, "new_ids": new_ids}
    state |= {} if series is None else {"series": series}
    state = {key: _text_keys(value) for key, value in state.items()}
    labels = _text_keys({**names, **({_ignore_id(names): "ignore"} if cases.coding.ignored else {})})
    if (begun or part is not None) and not _is_same(output, state, labels):
        fix = "Add --overwrite." if part is None else "Name another folder."
        raise InputError(f"{output}: it holds a copy that was begun with other labels or data. {fix}")
    with folder_replaced(output) if overwrite else nullcontext():
        _begin(output, state)
        for case in own.cases:
            _copy(case, cases, output, names, new_ids)
            if progress is not None:
                progress("copying", case.id, len(own.cases))
        finished = part is None or all(_is_copied(case, cases, output, names) for case in cases.cases)
        if finished:
            entries = [_entry(case, cases, output, names, new_ids) for case in cases.cases]
            content: dict[str, Any] = {MARK: True, "labels": labels}
            if cases.images:
                content["channel_names"] = _text_keys(dict(enumerate(cases.images)))
            write_json(output / LIST_FILE, {**content, "training": entries})
            (output / STATE_FILE).unlink(missing_ok=True)
    unlabelled = tuple(case.id for case in own.cases if case.label_source is None)
    return Converted(names, tuple(case.id for case in own.cases), unlabelled, finished)


def _of_part(cases: CaseList, part: Part) -> CaseList:
    own = {*part.of(case.id for case in cases.cases)}
    return replace(cases, cases=tuple(case for case in cases.cases if case.id in own))


def _check_place(root: Path, output: Path) -> None:
    """Refuse to write into the data set, or over it."""
    source, target = (root if root.is_dir() else root.parent).resolve(), output.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise InputError(f"{output}: it and the data set {root} lie one in the other. Name a folder elsewhere.")


def _is_begun(output: Path, cases: CaseList, overwrite: bool, own: CaseList | None = None) -> bool:
    """Whether there is an unfinished copy to continue; rejects what must not be written to.

    ``own`` are the cases of a part, which may come when the others have finished, as its own cases were there already.
    """
    if output.is_file():
        raise InputError(f"{output}: it is a file. Name a folder.")
    if not output.is_dir() or not any(own is None or not path.name.startswith(".") for path in output.iterdir()):
        return own is not None and (output / STATE_FILE).is_file()
    unfinished, finished = (output / STATE_FILE).is_file(), MARK in peek_object(output / LIST_FILE)
    if not (unfinished or finished):
        raise InputError(f"{output}: it holds other files and is not written to. Name another folder.")
    if own is not None and finished and all(_are_newer(_images(output, case), case.images) for case in own.cases):
        return True
    if finished and not unfinished and not overwrite:
        raise InputError(f"{output}: it already exists. Name another folder, or add --overwrite.")
    return unfinished and not overwrite


def _is_same(output: Path, state: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether what is there, if anything, is a copy of the same data with the same labels."""
    begun, made = peek_object(output / STATE_FILE), peek_object(output / LIST_FILE)
    return begun == state if begun else not made or made.get("labels") == labels


def _begin(output: Path, state: dict[str, Any]) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / STATE_FILE, state)  # first, so that another part sees what the folder is
        for folder in ("images", "labels"):
            (output / folder).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: it cannot be written to ({error.strerror}). Name another folder.") from error


# ---------------------------------------------------------------------------------------------------------- one case


def _entry(case: Case, cases: CaseList, output: Path, names: dict[int, str], new_ids: dict[int, int]) -> dict[str, Any]:
    """The case's entry in the datalist."""
    images = _images(output, case)
    listed = [image.relative_to(output).as_posix() for image in images]
    entry: dict[str, Any] = {"id": case.id, "image": listed if isinstance(case.image, ImageSet) else listed[0]}
    if case.patient is not None:
        entry["patient"] = case.patient
    if case.unannotated:
        hidden = {new_id for old_id, new_id in new_ids.items() if old_id in case.unannotated}
        entry["annotated"] = [name for class_id, name in names.items() if class_id not in hidden]
    labels = _labels(output, case, cases, names)
    if labels:
        paths = {class_id: path.relative_to(output).as_posix() for class_id, path in labels.items()}
        entry["label"] = _text_keys(paths) if cases.coding.overlapping else paths[0]
    return entry


def _is_copied(case: Case, cases: CaseList, output: Path, names: dict[int, str]) -> bool:
    """Whether all files of a case are there, and newer than what they were copied from."""
    labels = _labels(output, case, cases, names).values()
    return _are_newer(_images(output, case), case.images) and all(_is_newer(path, case.files()) for path in labels)


def _copy(case: Case, cases: CaseList, output: Path, names: dict[int, str], new_ids: dict[int, int]) -> None:
    """Copy the case's files where that has not been done."""
    images, labels = _images(output, case), _labels(output, case, cases, names)
    undone = [path for path in labels.values() if not _is_newer(path, case.files())]
    if undone or not _are_newer(images, case.images):
        voxels, header = read_volume(case.image, case.series)
        if not _are_newer(images, case.images):
            for index, image in enumerate(images):
                image.parent.mkdir(exist_ok=True)
                write_volume(image, voxels if voxels.ndim == 3 else voxels[..., index], header)
        if undone:
            for class_id, label in _relabelled(case, cases, new_ids, names, header):
                labels[class_id].parent.mkdir(exist_ok=True)
                write_label(labels[class_id], label, header)


def _relabelled(
    case: Case, cases: CaseList, new_ids: dict[int, int], names: dict[int, str], header: Any
) -> Iterable[tuple[int, np.ndarray]]:
    """The label map under the key 0, or for classes that overlap each class's mask under its id."""
    assert case.label_source is not None
    old_ids = list(new_ids) or [0]  # no class is left: everything becomes background
    label, table = read_classes(case.label_source, old_ids, cases.coding, header)
    if table is None:
        numbers = np.zeros(IGNORED + 1, dtype=np.uint16)
        numbers[1 : len(new_ids) + 1] = list(new_ids.values())
        numbers[IGNORED] = _ignore_id(names)
        yield 0, numbers[label]
        return
    masks = PartMasks(label, table, [str(old_id) for old_id in old_ids])
    for class_id in names:
        merged = [masks[str(old_id)] for old_id, new_id in new_ids.items() if new_id == class_id]
        yield class_id, np.any(merged, axis=0).astype(np.uint8)


def _images(output: Path, case: Case) -> list[Path]:
    if not isinstance(case.image, ImageSet):
        return [output / "images" / f"{case.id}.nii.gz"]
    words = [re.sub(r"[^\w-]+", "_", name).strip("_") for name in case.image.names]
    unique = len({word.casefold() for word in words if word}) == len(words)
    names = words if unique else [f"{number}_{word}" for number, word in enumerate(words)]
    return [output / "images" / case.id / f"{name}.nii.gz" for name in names]


def _labels(output: Path, case: Case, cases: CaseList, names: dict[int, str]) -> dict[int, Path]:
    """The label map's file under the key 0, or for classes that overlap each class's mask; none without a label."""
    if case.label_source is None:
        return {}
    if not cases.coding.overlapping:
        return {0: output / "labels" / f"{case.id}.nii.gz"}
    words = {class_id: re.sub(r"[^\w-]+", "_", name).strip("_") for class_id, name in names.items()}
    return {class_id: output / "labels" / case.id / f"{class_id}_{word}.nii.gz" for class_id, word in words.items()}


def _are_newer(paths: Sequence[Path], sources: Sequence[Path]) -> bool:
    return all(_is_newer(path, sources) for path in paths)


def _is_newer(path: Path, sources: Sequence[Path]) -> bool:
    """Whether a file is there and no source has changed since it was written."""
    if not path.is_file():
        return False
    files = [file for source in sources for file in (source.iterdir() if source.is_dir() else [source])]
    return all(file.stat().st_mtime <= path.stat().st_mtime for file in files)


def _ignore_id(names: dict[int, str]) -> int:
    return max(names, default=0) + 1


def _text_keys(content: Any) -> Any:
    """As JSON reads it back: numbers that are keys become text."""
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else content
