"""The checks of a data set's cases: every header, and every label once; and what they hold, class by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.text import counted
from medsam_adapt.data.datasets.annotated import annotation_notes
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.io import VolumeHeader, read_header, read_label
from medsam_adapt.data.volumes.same_grid import check_same_grid


@dataclass(frozen=True)
class CaseCheck:
    """What `check_cases` saw.

    Attributes:
        classes: label id -> name, ascending; ``class_<id>`` for the ids found where the data set gives no names.
        voxels: case id -> class id -> number of voxels (0 included), for the cases that have a label.
        headers: case id -> the image's header.
        notes: sentences about what was left out, or is readable and yet doubtful, such as a header that contradicts
            itself.
        unannotated: case id -> ids of the classes that are declared not to be annotated there, where there are any.
    """

    classes: dict[int, str]
    voxels: dict[str, dict[int, int]]
    headers: dict[str, VolumeHeader]
    notes: tuple[str, ...] = ()
    unannotated: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def partial_classes(self, case_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Name of each class that some of the given cases have -> ids of those that lack it entirely, if any do.

        Cases that are declared not to annotate a class are left out.
        """
        ids = sorted(case_id for case_id in case_ids if case_id in self.voxels)
        found = {}
        for class_id, name in self.classes.items():
            drawn = [case_id for case_id in ids if class_id not in self.unannotated.get(case_id, ())]
            without = tuple(case_id for case_id in drawn if not self.voxels[case_id].get(class_id))
            if 0 < len(without) < len(drawn):
                found[name] = without
        return found

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
            'Where it is in the image and was not drawn, background is trained, unless "annotated" in labels.json '
            "leaves it out."
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
        raise problems_error(problems)
    return check


@dataclass(frozen=True)
class CaseLook:
    """What one case's files hold.

    Attributes:
        case: whose they are.
        header: the image's, None where it cannot be read.
        counts: label id -> number of voxels, background included; None where there is no label, or no readable one.
        problems: a sentence for each, in the order of the files.
        notes: the same, of what is doubtful or was left out, and no reason to refuse the case.
    """

    case: Case
    header: VolumeHeader | None
    counts: dict[int, int] | None
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def look_at(case: Case, case_list: CaseList) -> CaseLook:
    """Read the image's header and the whole label of one case; raises nothing but reports every problem."""
    header: VolumeHeader | None = None
    counts: dict[int, int] | None = None
    problems: list[str] = []
    notes: list[str] = []
    with noted(problems):
        header = read_header(case.image, case.series)
        notes += header.notes
    if case.label is not None:
        with noted(problems):
            label = read_header(case.label)
            notes += () if notes else label.notes
            like = None
            with noted(problems):
                if header is not None:
                    check_same_grid(header, label)
                    like = header
            counts = _count_labels(case, case_list, like)
    elif case.masks:
        counts = _count_masks(case, case_list, header, problems)
    for class_id in sorted(case.unannotated & {*(counts or {})}):
        if counts is not None and counts[class_id] and class_id in case_list.classes:
            problems.append(
                f"{case.label or case.masks.get(class_id)}: it holds {counted(counts[class_id], 'voxel')} of "
                f'{case_list.classes[class_id]}, which "annotated" leaves out of {case.id}. Add the class to its list.'
            )
    faults = [text for class_id, text in case.problems.items() if class_id in case_list.classes]
    problems += dict.fromkeys(faults)  # one sentence where all classes have the same problem
    notes += case.notes
    notes += [f"{text} It is not among the classes in use." for text in case.problems.values() if text not in faults]
    return CaseLook(case, header, counts, tuple(problems), tuple(notes))


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
        problems.append(f"{case_list.root}: no case has a labelled voxel{names}. Check its labels and --classes.")
    notes = (*(note for look in looks for note in look.notes), *annotation_notes(case_list))
    unannotated = {case.id: case.unannotated for case in case_list.cases if case.unannotated}
    return CaseCheck(dict(classes), voxels, headers, notes, unannotated), problems


def _count_labels(case: Case, case_list: CaseList, image: VolumeHeader | None) -> dict[int, int]:
    """Class id -> number of voxels on the image's grid (the label's own where it is None), background (0) included."""
    assert case.label is not None
    coding = case_list.coding
    known = {0, *(coding.parts or {*case_list.classes, *case_list.unused}), *coding.ignored}
    label, _ = read_label(case.label, image)
    count = np.zeros(int(label.max()) + 1, dtype=np.int64)
    for plane in np.moveaxis(label, 2, 0):  # plane by plane: bincount works on a copy eight times as large
        count += np.bincount(plane.ravel(order="K"), minlength=len(count))
    present = {int(class_id): int(count[class_id]) for class_id in np.flatnonzero(count)}
    if case_list.classes and (outside := sorted(set(present) - known)):
        raise InputError(
            f"{case.label}: it holds the label {', '.join(map(str, outside[:5]))}{', ...' * (len(outside) > 5)}, which "
            "is outside the label map. Correct the label or add the class to the map."
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
            counts[class_id] = int(np.count_nonzero(read_label(case.masks[class_id], image)[0]))
    return counts
