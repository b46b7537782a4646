"""The scans of ``train --unlabelled``: those that nobody labelled, and that are no case of the labelled data set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import file_sha256
from medsam_adapt.core.text import counted
from medsam_adapt.data.datasets.scans import find_inputs
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.image_set import ImageSet, ImageSource


@dataclass(frozen=True)
class UnlabelledScans:
    """The scans of a folder that a training may use without labels.

    Attributes:
        root: the folder.
        cases: without labels, sorted by id.
        left_out: names of the scans that are cases of the labelled data set, held-out ones among them.
        found: how many there were before some were drawn.
        notes: what was recognised, in sentences.
    """

    root: Path
    cases: tuple[Case, ...]
    left_out: tuple[str, ...] = ()
    found: int = 0
    notes: tuple[str, ...] = ()


def find_unlabelled(
    root: str | Path, labelled: CaseList, seen: Iterable[str] = (), most: int | None = None, seed: int = 0
) -> UnlabelledScans:
    """The scans of a folder, as `find_inputs` finds them; opens none of them.

    A scan that has the name or the bytes of an image of the labelled data set is left out, whatever part of the split
    its case is in: the scores on held-out cases would be too good.

    Args:
        root: a folder of scans, or a data set's folder, whose labels are not looked at.
        labelled: the cases of the training's data set.
        seen: names of further cases to leave out, which an earlier run trained on or held out.
        most: how many scans to draw where there are more; all when None.
        seed: of the draw.

    Raises:
        InputError: no such folder, no scan in it, other images of a case than the training takes, or no scan that is
            not one of the labelled cases.
    """
    root = Path(root)
    if root.exists() and not root.is_dir() and root.suffix.lower() != ".json":
        raise InputError(f"--unlabelled {root}: it is a file. Give a folder of scans.")
    found = find_inputs(root, known_layout=labelled.layout, images=labelled.images)
    taken = {*(case.id for case in labelled.cases), *seen}
    files = [_first_file(case.image) for case in labelled.cases]
    places, sizes = {path.resolve() for path in files}, _by_size(files)
    cases, left_out = [], []
    for name, image in sorted(found.volumes.items()):
        path = _first_file(image)
        if name in taken or path.resolve() in places or _is_copy(path, sizes):
            left_out.append(name)
        else:
            cases.append(Case(name, image))
    if not cases:
        raise InputError(
            f"--unlabelled {root}: it holds no scan beside {counted(len(left_out), 'case')} of {labelled.root}. Give a "
            "folder with other scans."
        )
    drawn = np.sort(np.random.default_rng(seed).permutation(len(cases))[:most])
    return UnlabelledScans(root, tuple(cases[i] for i in drawn), tuple(left_out), len(cases), found.notes)


def _first_file(image: ImageSource) -> Path:
    return image.first if isinstance(image, ImageSet) else image


def _by_size(files: Iterable[Path]) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for path in files:
        if path.is_file():
            found.setdefault(path.stat().st_size, []).append(path)
    return found


def _is_copy(path: Path, others: dict[int, list[Path]]) -> bool:
    """Whether a file has the bytes of another one."""
    if not path.is_file() or not (alike := others.get(path.stat().st_size)):
        return False
    return file_sha256(path) in {file_sha256(other) for other in alike}
