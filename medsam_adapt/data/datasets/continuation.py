"""More data for a run that continues from another's weights: its classes must be those that the weights know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.text import class_key
from medsam_adapt.data.volumes.case import CaseList


def fit_classes(
    cases: CaseList,
    label_map: Mapping[int, str],
    run: str,
    overlapping: bool = False,
    wanted: Sequence[str] | None = None,
) -> CaseList:
    """The cases under the label map of a run; they may lack some of its classes.

    Args:
        cases: as found.
        label_map: label id -> name, of the run.
        run: its folder, for the sentences.
        overlapping: whether the run's classes may overlap.
        wanted: names asked for, which must be the run's; None for no wish. Only with them may the cases have classes
            that the run does not have: these count as background.

    Raises:
        InputError: all classes that do not fit: of another id than in the run, or not in the run.
    """
    ids = {class_key(name): class_id for class_id, name in label_map.items()}
    known = ", ".join(f"{class_id} {name}" for class_id, name in label_map.items())
    if cases.coding.overlapping != overlapping:
        here, there = "may overlap", "exclude each other"
        here, there = (here, there) if cases.coding.overlapping else (there, here)
        raise InputError(f"{cases.root}: its classes {here}, and those of {run} {there}. Train a separate run on it.")
    if wanted is not None and {class_key(name) for name in wanted} != set(ids):
        raise InputError(f"--classes: training from {run} keeps its classes, {known}. Leave out --classes.")
    problems, unused = [], dict(cases.unused)
    for class_id, name in cases.classes.items():
        if ids.get(class_key(name)) == class_id:
            continue
        if class_key(name) in ids:
            problems.append(
                f"{cases.root}: {name} is its label {class_id}, and in {run} it is {ids[class_key(name)]}. Renumber it "
                "with 'medsam-adapt data convert --map'."
            )
        elif wanted is None or class_id in label_map:
            problems.append(
                f"{cases.root}: {name} is its label {class_id}, and {run} has only {known}. Leave it out with "
                "'medsam-adapt data convert --classes'."
            )
        unused[class_id] = name
    if problems:
        raise problems_error(problems)
    return replace(cases, classes=dict(label_map), unused=unused)
