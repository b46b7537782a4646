"""3D Slicer's segmentations among the labels of a data set: classes by the names of their segments.

Slicer numbers the segments of every file anew. Where the numbers are not those of the classes, or segments overlap, the
label is converted once, as DICOM labels are; a file whose names are no class is read by its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medsam_adapt.core.text import class_key
from medsam_adapt.data.volumes.case import Case
from medsam_adapt.data.volumes.dicom_conversion import converted_label
from medsam_adapt.data.volumes.io import is_slicer_label
from medsam_adapt.data.volumes.label_coding import EXCLUSIVE, LabelCoding
from medsam_adapt.data.volumes.slicer_labels import Segment, segments_of


def with_named_labels(
    cases: Sequence[Case], classes: Mapping[int, str]
) -> tuple[tuple[Case, ...], dict[int, str], LabelCoding]:
    """The cases with labels that hold the classes' ids, the classes, and what the numbers mean.

    Args:
        cases: of a data set whose labels are label maps.
        classes: label id -> name; where there are none, the segments' names are the classes if every label has some.

    Raises:
        InputError: as `segments_of` and `converted_label`.
    """
    segments = {case.id: _segments(case) for case in cases}
    labelled = [case.id for case in cases if case.label is not None]
    if not any(segments.values()):
        return tuple(cases), dict(classes), EXCLUSIVE
    if not classes and all(segments[case_id] for case_id in labelled):
        classes = _classes([segments[case_id] for case_id in labelled])
    found = tuple(_converted(case, segments[case.id], classes) for case in cases)
    coding = LabelCoding(overlapping=True) if any(case.masks for case in found) else EXCLUSIVE
    return found, dict(classes), coding


def _segments(case: Case) -> tuple[Segment, ...]:
    return segments_of(case.label) if case.label is not None and is_slicer_label(case.label) else ()


def _classes(files: Sequence[tuple[Segment, ...]]) -> dict[int, str]:
    """The ids of the files where they agree, else names in alphabetical order."""
    ids: dict[str, set[int]] = {}
    names: dict[str, str] = {}
    for segment in (segment for segments in files for segment in segments):
        key = class_key(segment.name)
        ids.setdefault(key, set()).add(segment.value)
        names.setdefault(key, segment.name)
    numbers = [next(iter(found)) for found in ids.values()]
    if all(len(found) == 1 for found in ids.values()) and len({*numbers}) == len(numbers):
        return dict(sorted(zip(numbers, names.values(), strict=True)))
    return {number: names[key] for number, key in enumerate(sorted(names), start=1)}


def _converted(case: Case, segments: Sequence[Segment], classes: Mapping[int, str]) -> Case:
    keys = {class_id: class_key(name) for class_id, name in classes.items()}
    known = [segment for segment in segments if class_key(segment.name) in keys.values()]
    as_numbered = all(segment.layer == 0 and keys.get(segment.value) == class_key(segment.name) for segment in segments)
    if case.label is None or not known or as_numbered:
        return case
    found = converted_label(case.label, case.first_image, classes)
    return replace(case, label=found.label, masks=found.masks, problems=found.problems, notes=found.notes)
