"""The cases of a data set: found, and checked against each other.

The order of use is `find_cases` (names and files only), `select_classes` where the user names some, `check_cases`
(headers and label voxels), and `split_cases` of `splits`.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.config import Intensity
from medsam_adapt.data import layouts
from medsam_adapt.data.io import VolumeHeader, read_header, read_label
from medsam_adapt.data.parts import EXCLUSIVE, LabelCoding, LabelSource
from medsam_adapt.errors import InputError

# A label this share of its smallest voxel side away from its image is rounding; more is another grid.
ALIGNMENT_TOLERANCE = 0.1
IGNORE = "ignore"  # the name of a label that says that nobody looked


@dataclass(frozen=True)
class Case:
    """One image, its label if there is one, and whose it is (the case's id where no patient is given).

    A label is one file, or ``masks``: a file for each class, by the class's id.
    """

    id: str
    image: Path
    label: Path | None = None
    patient: str | None = None
    masks: dict[int, Path] = field(default_factory=dict, hash=False)

    @property
    def label_source(self) -> LabelSource | None:
        """What `read_classes` reads; None where the case has no label."""
        return self.label or self.masks or None

    @property
    def patient_id(self) -> str:
        """What keeps the cases of one patient together."""
        return self.id if self.patient is None else self.patient

    def files(self) -> list[Path]:
        """The image, and the label's file or files."""
        return [self.image, *([self.label] if self.label else self.masks.values())]

    def entry(self) -> dict[str, Any]:
        """{id, image, label} as text, for the transforms of whole volumes; of masks {class id: mask} is the label."""
        label = str(self.label) if self.label else {class_id: str(path) for class_id, path in self.masks.items()}
        return {"id": self.id, "image": str(self.image), "label": label}


@dataclass(frozen=True)
class CaseList:
    """The cases of one data set.

    Attributes:
        layout: the layout's name.
        root: the folder, or the file of a datalist.
        cases: sorted by id.
        classes: label id -> name, ascending, without background; empty where the layout has no names.
        unused: classes that `select_classes` left out; their voxels count as background.
        coding: what the numbers in the label files mean.
        intensity: the policy that suits the data set, where the user names none.
    """

    layout: str
    root: Path
    cases: tuple[Case, ...]
    classes: dict[int, str]
    unused: dict[int, str] = field(default_factory=dict)
    coding: LabelCoding = EXCLUSIVE
    intensity: Intensity = "auto"


def find_cases(root: str | Path, layout: str = "auto", need_labels: bool = True) -> CaseList:
    """The cases below ``root``; opens no volume.

    Args:
        root: the data set's folder, or the JSON file of a datalist.
        layout: a layout's name, such as "msd", or "segrap:contrast" with a choice; "auto" for the first that ``root``
            looks like.
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
    found = layouts.read_layout(_recognise(root) if layout == "auto" else layout, root, need_labels)
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
    return _without_ignored(replace(found, cases=tuple(sorted(found.cases, key=lambda case: case.id))))


def _without_ignored(found: CaseList) -> CaseList:
    """A class that is called "ignore" is none: its voxels are neither trained on nor scored."""
    ignored = {class_id for class_id, name in found.classes.items() if layouts.class_key(name) == IGNORE}
    if not ignored:
        return found
    classes = {class_id: name for class_id, name in found.classes.items() if class_id not in ignored}
    return replace(found, classes=classes, coding=replace(found.coding, ignored=tuple(sorted(ignored))))


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

    def partial_classes(self, case_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Name of each class that some of the given cases have -> ids of those that lack it entirely, if any do."""
        ids = sorted(case_id for case_id in case_ids if case_id in self.voxels)
        lacking = {
            name: tuple(case_id for case_id in ids if not self.voxels[case_id].get(class_id))
            for class_id, name in self.classes.items()
        }
        return {name: without for name, without in lacking.items() if 0 < len(without) < len(ids)}

    def partial_warning(self, case_ids: Iterable[str]) -> str | None:
        """A sentence about `partial_classes`, None where there are none."""
        found = self.partial_classes(case_ids)
        listed = [
            f"{name} in {', '.join(without[:3])}{f' and {len(without) - 3} more' * (len(without) > 3)}"
            for name, without in found.items()
        ]
        if not listed:
            return None
        return (
            f"some cases lack a class that others have: {'; '.join(listed)}. "
            "Where it is in the image and was not drawn, background is trained."
        )

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
    looks = []
    for case in case_list.cases:
        looks.append(look_at(case, case_list))
        if progress is not None:
            progress(case.id)
    check, problems = gather(case_list, looks)
    if problems:
        raise layouts.problems_error(problems)
    return check


@dataclass(frozen=True)
class CaseLook:
    """What one case's files hold.

    Attributes:
        case: whose they are.
        header: the image's, None where it cannot be read.
        counts: label id -> number of voxels, background included; None where there is no label, or no readable one.
        problems: a sentence for each, in the order of the files.
    """

    case: Case
    header: VolumeHeader | None
    counts: dict[int, int] | None
    problems: tuple[str, ...]


def look_at(case: Case, case_list: CaseList) -> CaseLook:
    """Read the image's header and the whole label of one case; raises nothing but tells every problem."""
    header: VolumeHeader | None = None
    counts: dict[int, int] | None = None
    problems: list[str] = []
    with noted(problems):
        header = read_header(case.image)
    if case.label is not None:
        with noted(problems):
            label = read_header(case.label)
            with noted(problems):
                if header is not None:
                    check_same_grid(header, label)
            counts = _count_labels(case, case_list)
    elif case.masks:
        counts = _count_masks(case, case_list, header, problems)
    return CaseLook(case, header, counts, tuple(problems))


@contextmanager
def noted(problems: list[str]) -> Iterator[None]:
    """Add the sentences of an InputError in the block to ``problems``, and go on behind it."""
    try:
        yield
    except InputError as error:
        problems.extend(error.problems)


def gather(case_list: CaseList, looks: Iterable[CaseLook]) -> tuple[CaseCheck, list[str]]:
    """What all cases hold together, and all problems, that there is no labelled voxel among them."""
    looks = list(looks)
    problems = [problem for look in looks for problem in look.problems]
    counts = {look.case.id: look.counts for look in looks if look.counts is not None}
    headers = {look.case.id: look.header for look in looks if look.header is not None}
    found = sorted({class_id for count in counts.values() for class_id in count if class_id > 0})
    classes = case_list.classes or {class_id: f"class_{class_id}" for class_id in found}
    voxels = {key: {class_id: count.get(class_id, 0) for class_id in classes} for key, count in counts.items()}
    if not problems and voxels and not any(any(count.values()) for count in voxels.values()):
        names = f" of {', '.join(classes.values())}" if classes else ""
        problems.append(f"{case_list.root} has no labelled voxel{names} in any case; check its labels and --classes")
    return CaseCheck(dict(classes), voxels, headers), problems


def _count_labels(case: Case, case_list: CaseList) -> dict[int, int]:
    """Class id -> number of voxels, background (0) included."""
    assert case.label is not None
    coding = case_list.coding
    known = {0, *(coding.parts or {*case_list.classes, *case_list.unused}), *coding.ignored}
    label, _ = read_label(case.label)
    count = np.zeros(int(label.max()) + 1, dtype=np.int64)
    for plane in np.moveaxis(label, 2, 0):  # plane by plane: bincount works on a copy eight times as large
        count += np.bincount(plane.ravel(order="K"), minlength=len(count))
    present = {int(class_id): int(count[class_id]) for class_id in np.flatnonzero(count)}
    if case_list.classes and (outside := sorted(set(present) - known)):
        raise InputError(
            f"{case.label} holds the label {', '.join(map(str, outside[:5]))}{', ...' * (len(outside) > 5)}, which is "
            "outside the label map; correct the label or add the class to the map"
        )
    if coding.parts is None:
        return {class_id: voxels for class_id, voxels in present.items() if class_id not in coding.ignored}
    counts = Counter({0: present.get(0, 0)})
    for number, voxels in present.items():
        counts.update(dict.fromkeys(coding.parts.get(number, ()), voxels))
    return dict(counts)


def _count_masks(case: Case, case_list: CaseList, image: VolumeHeader | None, problems: list[str]) -> dict[int, int]:
    """Class id -> number of voxels in its mask, of the classes in use that have one; adds to ``problems``."""
    counts = {}
    for class_id in {*case_list.classes} & {*case.masks}:
        with noted(problems):
            if image is not None:
                check_same_grid(image, read_header(case.masks[class_id]))
            counts[class_id] = int(np.count_nonzero(read_label(case.masks[class_id])[0]))
    return counts


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
