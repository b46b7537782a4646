"""The cases of a data set: found, checked against each other, and split by patient.

The order of use is `find_cases` (names and files only), `select_classes` where the user names some, `check_cases`
(headers and label voxels) and `split_cases`.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medsam_adapt.data import layouts
from medsam_adapt.data.io import VolumeHeader, read_header, read_label
from medsam_adapt.errors import InputError
from medsam_adapt.files import write_json

# A label this share of its smallest voxel side away from its image is rounding; more is another grid.
ALIGNMENT_TOLERANCE = 0.1


@dataclass(frozen=True)
class Case:
    """One image, its label if there is one, and whose it is (the case's id where no patient is given)."""

    id: str
    image: Path
    label: Path | None = None
    patient: str | None = None

    @property
    def patient_id(self) -> str:
        """What keeps the cases of one patient together."""
        return self.id if self.patient is None else self.patient


@dataclass(frozen=True)
class CaseList:
    """The cases of one data set.

    Attributes:
        layout: the layout's name.
        root: the folder, or the file of a datalist.
        cases: sorted by id.
        classes: label id -> name, ascending, without background; empty where the layout has no names.
        unused: classes that `select_classes` left out; their voxels count as background.
    """

    layout: str
    root: Path
    cases: tuple[Case, ...]
    classes: dict[int, str]
    unused: dict[int, str] = field(default_factory=dict)


def find_cases(root: str | Path, layout: str = "auto", need_labels: bool = True) -> CaseList:
    """The cases below ``root``; opens no volume.

    Args:
        root: the data set's folder, or the JSON file of a datalist.
        layout: a layout's name, or "auto" for the first that ``root`` looks like.
        need_labels: whether an image without a label is an error.

    Raises:
        InputError: no such folder, an unknown layout, a folder that looks like none, whatever the layout refuses,
            no cases, an id that is given twice or that cannot be part of a file's name.
    """
    root = Path(root)
    if layout != "auto":
        layouts.get_layout(layout)  # a misspelt name is told first
    if not root.exists():
        raise InputError(f"{root} does not exist; give the folder that holds the data set")
    found = layouts.get_layout(_recognise(root) if layout == "auto" else layout).read(root, need_labels)
    if not found.cases:
        raise InputError(f"{root} holds no cases in layout {found.layout}; add volumes or name another --layout")
    counts = Counter(case.id for case in found.cases)
    problems = [
        f"{root} has {count} cases with the id {case_id!r}; give each an id of its own"
        for case_id, count in counts.items()
        if count > 1
    ]
    problems += [
        f"{root} has a case with the id {case_id!r}, which cannot be part of a file's name; choose letters and digits"
        for case_id in counts
        if not re.fullmatch(r"[^\s./\\:][^/\\:\x00-\x1f]*", case_id)
    ]
    if problems:
        raise layouts.problems_error(problems)
    return replace(found, cases=tuple(sorted(found.cases, key=lambda case: case.id)))


def _recognise(root: Path) -> str:
    for name in layouts.layout_names():
        if layouts.get_layout(name).looks_like(root):
            return name
    known = "; ".join(f"{name} ({layouts.get_layout(name).DESCRIPTION})" for name in layouts.layout_names())
    raise InputError(f"{root} looks like no known layout; arrange it as one of these: {known}")


def select_classes(case_list: CaseList, names: Sequence[str]) -> CaseList:
    """Only the named classes, ids unchanged; the others become `CaseList.unused`.

    Case does not matter, and spaces, underscores and hyphens are equal.

    Raises:
        InputError: a class that the data set does not name.
    """
    if not case_list.classes:
        raise InputError(
            f'{case_list.root} gives its classes no names to choose from; add labels.json, such as {{"1": "liver"}}'
        )
    ids = {layouts.class_key(name): class_id for class_id, name in case_list.classes.items()}
    known = ", ".join(case_list.classes.values())
    problems = [
        f"{case_list.root} has no class {name!r}{layouts.did_you_mean(layouts.class_key(name), ids)}; it has {known}"
        for name in names
        if layouts.class_key(name) not in ids
    ]
    if problems or not names:
        raise layouts.problems_error(problems or [f"no class is named; choose from {known}"])
    chosen = {ids[layouts.class_key(name)] for name in names}
    return replace(
        case_list,
        classes={class_id: name for class_id, name in case_list.classes.items() if class_id in chosen},
        unused=case_list.unused | {k: name for k, name in case_list.classes.items() if k not in chosen},
    )


# ------------------------------------------------------------------------------------------------------------ checks


@dataclass(frozen=True)
class CaseCheck:
    """What `check_cases` saw.

    Attributes:
        classes: label id -> name, ascending; ``class_<id>`` for the ids found where the data set gives no names.
        voxels: case id -> class id -> number of voxels (0 included), for the cases that have a label.
        headers: case id -> the image's header.
    """

    classes: dict[int, str]
    voxels: dict[str, dict[int, int]]
    headers: dict[str, VolumeHeader]

    def absent_classes(self, case_ids: Iterable[str] | None = None) -> tuple[str, ...]:
        """Names of the classes without a voxel in the given cases (all by default)."""
        ids = list(self.voxels) if case_ids is None else list(case_ids)
        return tuple(
            name
            for class_id, name in self.classes.items()
            if not any(self.voxels.get(case_id, {}).get(class_id) for case_id in ids)
        )


def check_cases(case_list: CaseList, progress: Callable[[str], None] | None = None) -> CaseCheck:
    """Read every header, and every label once; images are not decompressed.

    Args:
        case_list: with or without names of classes.
        progress: called with each case's id when it is done.

    Raises:
        InputError: all problems of all cases (the first ten, and how many more): unreadable files, image and label of
            different geometry, labels outside the map, no labelled voxel anywhere.
    """
    headers: dict[str, VolumeHeader] = {}
    counts: dict[str, dict[int, int]] = {}
    problems: list[str] = []
    known = {0, *case_list.classes, *case_list.unused} if case_list.classes else None
    for case in case_list.cases:
        try:
            headers[case.id] = read_header(case.image)
            if case.label is not None:
                counts[case.id] = _count_labels(case, headers[case.id], known)
        except InputError as error:
            problems.append(str(error))
        if progress is not None:
            progress(case.id)
    found = sorted({class_id for count in counts.values() for class_id in count if class_id > 0})
    classes = case_list.classes or {class_id: f"class_{class_id}" for class_id in found}
    voxels = {key: {class_id: count.get(class_id, 0) for class_id in classes} for key, count in counts.items()}
    if not problems and voxels and not any(any(count.values()) for count in voxels.values()):
        names = f" of {', '.join(classes.values())}" if classes else ""
        problems.append(f"{case_list.root} has no labelled voxel{names} in any case; check its labels and --classes")
    if problems:
        raise layouts.problems_error(problems)
    return CaseCheck(dict(classes), voxels, headers)


def _count_labels(case: Case, image: VolumeHeader, known: set[int] | None) -> dict[int, int]:
    """Label id -> number of voxels, background included; ``known``: the ids allowed, None for any."""
    assert case.label is not None
    check_same_grid(image, read_header(case.label))
    label, _ = read_label(case.label)
    count = np.zeros(int(label.max()) + 1, dtype=np.int64)
    for plane in np.moveaxis(label, 2, 0):  # plane by plane: bincount works on a copy eight times as large
        count += np.bincount(plane.ravel(order="K"), minlength=len(count))
    present = {int(class_id): int(count[class_id]) for class_id in np.flatnonzero(count)}
    if known is not None and (outside := sorted(set(present) - known)):
        raise InputError(
            f"{case.label} holds the label {', '.join(map(str, outside[:5]))}{', ...' * (len(outside) > 5)}, which is "
            "outside the label map; correct the label or add the class to the map"
        )
    return present


def check_same_grid(image: VolumeHeader, label: VolumeHeader) -> None:
    """Raise an InputError that says how far apart, unless two volumes have the same voxels in the same places."""
    mend = "resample the label onto its image with nearest neighbour"
    if image.shape != label.shape:
        sizes = [" × ".join(map(str, header.shape)) for header in (label, image)]
        raise InputError(f"{label.path} has {sizes[0]} voxels and its image {image.path.name} {sizes[1]}; {mend}")
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, length - 1) for length in image.shape))])
    apart = np.linalg.norm((corners @ (image.affine - label.affine).T)[:, :3], axis=1).max()
    if apart > ALIGNMENT_TOLERANCE * min(image.spacing):
        raise InputError(f"{label.path} lies up to {apart:.3g} mm from its image {image.path.name}; {mend}")


# ------------------------------------------------------------------------------------------------------------ splits


@dataclass(frozen=True)
class Split:
    """Ids of the cases to train on and of those held out, each sorted."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def split_cases(cases: Iterable[Case], seed: int, held_out_fraction: float = 0.2) -> Split:
    """A seeded split by patient; the order of ``cases`` does not matter.

    With fewer than three patients nothing is held out; otherwise at least one patient is, and at least one trained on.

    Raises:
        InputError: a fraction outside [0, 1).
    """
    if not 0 <= held_out_fraction < 1:
        raise InputError(f"the held-out fraction is {held_out_fraction}; give 0 or more and less than 1")
    patient_of = {case.id: case.patient_id for case in cases}
    patients = sorted(set(patient_of.values()))
    held_out: set[str] = set()
    if len(patients) >= 3 and held_out_fraction > 0:
        count = min(max(1, round(held_out_fraction * len(patients))), len(patients) - 1)
        order = np.random.default_rng(seed).permutation(len(patients))
        held_out = {patients[index] for index in order[:count]}
    ids = sorted(patient_of)
    return Split(
        train=tuple(case_id for case_id in ids if patient_of[case_id] not in held_out),
        held_out=tuple(case_id for case_id in ids if patient_of[case_id] in held_out),
    )


def save_split(path: str | Path, split: Split, seed: int) -> None:
    """Write the split and its seed as JSON."""
    write_json(path, {"seed": seed, "train": list(split.train), "held_out": list(split.held_out)})


def load_split(path: str | Path) -> Split:
    """The split of a file that `save_split` wrote.

    Raises:
        InputError: no such file, not JSON, not lists of ids, or a case on both sides.
    """
    content = layouts.read_object(Path(path))
    sides: list[tuple[str, ...]] = []
    for name in ("train", "held_out"):
        side = content.get(name)
        if not isinstance(side, list) or not all(isinstance(case_id, str) for case_id in side):
            raise InputError(f"{path} is no split; give it {name!r}, a list of case ids")
        sides.append(tuple(side))
    train, held_out = sides
    if both := sorted(set(train) & set(held_out)):
        raise InputError(f"{path} has {both[0]!r} both in train and in held_out; remove it from one of them")
    return Split(train, held_out)
