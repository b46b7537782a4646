"""Scores of anybody's masks: two folders of cases, matched by name. No network, and torch is not imported.

A case is a label file, or a folder with a mask of each structure (`structure_folders`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.ndimage import find_objects

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.json_files import read_json
from medsam_adapt.data.datasets.layouts import class_map
from medsam_adapt.data.volumes.io import read_header, read_label, volume_files, volume_stem, without_label_ending
from medsam_adapt.data.volumes.same_grid import common_grid
from medsam_adapt.scoring.metrics import MetricRules, Scores, background_iou, score_volume
from medsam_adapt.scoring.structure_folders import (
    check_structures,
    require_same_grid,
    score_structures,
    structure_files,
    without_mask,
)
from medsam_adapt.scoring.summary import CaseFacts

_CHANNEL = "_0000"

Result = TypeVar("Result")
Progress = Callable[[str], None]
Label = int | str  # an id in label files, or the name of a structure's own file


@dataclass(frozen=True)
class MaskPair:
    """A prediction and the reference that it is scored on; the id is the reference's name."""

    id: str
    prediction: Path
    reference: Path

    @property
    def by_name(self) -> bool:
        """Whether both name their structures: folders with a mask of each, or 3D Slicer's segmentations."""
        return bool(structure_files(self.reference)) and bool(structure_files(self.prediction))


@dataclass(frozen=True)
class Matched:
    """The pairs of two folders, sorted by id, and the files that have no counterpart."""

    pairs: tuple[MaskPair, ...]
    unmatched: tuple[Path, ...]


def match_masks(predictions: Path, references: Path) -> Matched:
    """Pair the cases of two folders by name; ``_seg``, ``_label(s)`` and ``_0000`` at the end of a name are ignored.

    Two files are a pair, whatever their names; a file and a folder are paired by the file's name.

    Raises:
        InputError: no such file or folder, two cases of one name in it, or not one pair.
    """
    for path in (predictions, references):
        if not path.exists():
            raise InputError(
                f"{path}: it is neither a folder nor a file. Give a label file or a folder of label files."
            )
    if predictions.is_file() and references.is_file():
        return Matched((MaskPair(_stem(references), predictions, references),), ())
    found = [_by_name(folder) for folder in (predictions, references)]
    shared = sorted(found[0].keys() & found[1].keys())
    if not shared:
        raise InputError(
            f"{predictions}: no mask has the name of one in {references}. Name both alike (_seg, _label, _labels and "
            "_0000 at the end do not matter)."
        )
    pairs = [MaskPair(_stem(found[1][name]), found[0][name], found[1][name]) for name in shared]
    # Where one file is scored, the others of the folder are not wanted.
    whole = found if predictions.is_dir() and references.is_dir() else []
    alone = [path for files in whole for name, path in files.items() if name not in shared]
    return Matched(tuple(sorted(pairs, key=lambda pair: pair.id)), tuple(sorted(alone)))


def read_class_names(path: Path) -> dict[int, str]:
    """Label id -> name from ``labels.json``, or from a file that has such a map under ``labels``.

    Raises:
        InputError: as :func:`medsam_adapt.data.datasets.layouts.class_map`.
    """
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("labels"), dict | list):
        content = content["labels"]
    return class_map(content, path)


def find_labels(pairs: Sequence[MaskPair], workers: int = 1, progress: Progress | None = None) -> dict[str, set[Label]]:
    """Read every file once; the label ids (or names of structures) of each pair by case id.

    Raises:
        InputError: the problems of all files together: unreadable, no label map, prediction and reference on
            different grids, label maps beside folders of masks.
    """
    found: dict[str, set[Label]] = {}
    problems: list[str] = []
    kinds = {pair.by_name: pair for pair in pairs}
    if len(kinds) > 1:
        problems.append(
            f"{kinds[True].reference} names its structures and {kinds[False].reference} numbers them. Score them apart."
        )
    for pair, result in _over_cases(_labels_of, pairs, workers, progress):
        if isinstance(result, set):
            found[pair.id] = result
        else:
            problems += result
    if problems:
        raise problems_error(problems)
    return found


def missing_masks(pairs: Sequence[MaskPair]) -> list[str]:
    """A sentence for each case whose prediction lacks the file of a structure."""
    lacking = {pair.prediction: without_mask(pair.prediction, pair.reference) for pair in pairs if pair.by_name}
    return [
        f"{folder} has no mask of {', '.join(names)}: scored as empty." for folder, names in lacking.items() if names
    ]


def score_masks(
    pairs: Sequence[MaskPair],
    classes: Mapping[Label, str],
    rules: MetricRules,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[dict[str, Scores], dict[str, CaseFacts]]:
    """Scores and facts by case id.

    Args:
        pairs: that :func:`find_labels` has read.
        classes: label id, or name of a structure's file -> name, of those to score.
        rules: which metrics, and how.
        workers: processes.
        progress: called with each case's id when it is done.
    """
    scores, facts = {}, {}
    for pair, result in _over_cases(partial(score_pair, classes=classes, rules=rules), pairs, workers, progress):
        scores[pair.id], facts[pair.id] = result
    return scores, facts


def score_pair(pair: MaskPair, classes: Mapping[Label, str], rules: MetricRules) -> tuple[Scores, CaseFacts]:
    """Scores of one case in the file's own voxels."""
    if pair.by_name:
        return score_structures(pair.prediction, pair.reference, list(classes.values()), rules)
    header = common_grid(read_header(pair.prediction), read_header(pair.reference))
    prediction, reference = (
        _numbered(read_label(path, header)[0], [int(label_id) for label_id in classes])
        for path in (pair.prediction, pair.reference)
    )
    axial = next(axis for axis, towards in enumerate(header.orientation) if towards in "SI")
    names = list(classes.values())
    scores = score_volume(prediction, reference, names, header.spacing, rules, slice_axis=axial)
    return scores, CaseFacts(header.spacing, header.shape, background_iou(prediction, reference))


def _by_name(folder: Path) -> dict[str, Path]:
    """Name -> case of a folder, or the one file that ``folder`` is."""
    files: dict[str, Path] = {}
    found = [folder]
    if folder.is_dir():
        cases = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and structure_files(path)]
        found = [*volume_files(folder), *cases]
    for path in found:
        name = without_label_ending(without_label_ending(_stem(path)).removesuffix(_CHANNEL))
        if (other := files.setdefault(name, path)) != path:
            raise InputError(f"{other}: {path.name} is a mask of {name!r} too. Move one of them elsewhere.")
    return files


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else volume_stem(path)


def _numbered(label: np.ndarray, label_ids: Sequence[int]) -> np.ndarray:
    """Classes 1, 2, … for the label ids in their order; every other id becomes background."""
    table = np.zeros(
        max(int(label.max(initial=0)), *label_ids) + 1, dtype=np.uint8 if len(label_ids) < 256 else np.uint16
    )
    table[list(label_ids)] = np.arange(1, len(label_ids) + 1)
    return np.asarray(table[label])


def _labels_of(pair: MaskPair) -> set[Label] | list[str]:
    """The label ids of a pair of files, or the sentences that state what is wrong with them."""
    if not pair.by_name and (pair.prediction.is_dir() or pair.reference.is_dir()):
        return [f"{pair.prediction}: it and {pair.reference} are a folder of masks and a label map. Give both alike."]
    if pair.by_name:
        try:
            return set(check_structures(pair.prediction, pair.reference))
        except InputError as error:
            return [str(error)]
    problems: list[str] = []
    for path in (pair.prediction, pair.reference):
        try:
            read_header(path)
        except InputError as error:
            problems.append(str(error))
    if problems:
        return problems
    try:
        require_same_grid(read_header(pair.prediction), read_header(pair.reference))
        grid = common_grid(read_header(pair.prediction), read_header(pair.reference))
        labels = [read_label(path, grid)[0] for path in (pair.prediction, pair.reference)]
    except InputError as error:
        return [str(error)]
    return {label_id for label in labels for label_id, box in enumerate(find_objects(label), start=1) if box}


def _over_cases(
    function: Callable[[MaskPair], Result], pairs: Sequence[MaskPair], workers: int, progress: Progress | None
) -> Iterator[tuple[MaskPair, Result]]:
    """``function`` of every pair, in order, by several processes where wanted."""
    if workers <= 1:
        results: Iterable[Any] = map(function, pairs)
        yield from _reported(pairs, results, progress)
        return
    # Spawned, not forked: a fork in a process with running threads (torch's, BLAS's) may hang.
    with ProcessPoolExecutor(min(workers, len(pairs)), mp_context=get_context("spawn")) as pool:
        yield from _reported(pairs, pool.map(function, pairs), progress)


def _reported(
    pairs: Sequence[MaskPair], results: Iterable[Result], progress: Progress | None
) -> Iterator[tuple[MaskPair, Result]]:
    for pair, result in zip(pairs, results, strict=True):
        if progress is not None:
            progress(pair.id)
        yield pair, result
