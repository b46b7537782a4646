"""Partial labels: which classes somebody drew in which case.

A class that is not annotated in a case may be in its image and is not in its label. There it is neither trained on as
background nor scored. It is declared in labels.json, dataset.json or datalist.json, for the cases that lack classes:

    {"1": "liver", "2": "spleen", "annotated": {"case_7": ["liver"]}}

or in an entry of a list: {"image": "a.nii.gz", "label": "a_seg.nii.gz", "annotated": ["liver"]}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.json_files import peek_object
from medsam_adapt.core.text import class_key, counted, did_you_mean
from medsam_adapt.data.volumes.case import Case, CaseList

KEY = "annotated"
_FILES = ("labels.json", "dataset.json", "datalist.json")


def with_annotated(found: CaseList) -> CaseList:
    """The cases, each with the ids of the classes that nobody annotated in it.

    Raises:
        InputError: a declaration in another form, or of a case or a class that there is not.
    """
    source, declared = _declared(found.root)
    declared = {**declared, **{case.id: list(case.annotated) for case in found.cases if case.annotated is not None}}
    if not declared:
        return found
    if not found.classes:
        raise InputError(f'{source}: "{KEY}" needs the names of the classes. Add them, as in {{"1": "liver"}}.')
    ids = {class_key(name): class_id for class_id, name in found.classes.items()}
    ids |= {str(class_id): class_id for class_id in found.classes}
    known = [case.id for case in found.cases]
    problems = [
        f'{source}: "{KEY}" names the case {case_id!r}, which is not there.{did_you_mean(case_id, known)} Correct it.'
        for case_id in sorted({*declared} - {*known})
    ]
    cases: list[Case] = []
    for case in found.cases:
        names = [str(name) for name in declared.get(case.id, [])]
        problems += [
            f'{source}: "{KEY}" of {case.id} names {name!r}, which is no class.{did_you_mean(class_key(name), ids)} '
            f"Use {', '.join(found.classes.values())}."
            for name in names
            if class_key(name) not in ids
        ]
        drawn = {ids.get(class_key(name)) for name in names}
        lacking = frozenset({*found.classes} - drawn) if case.id in declared else frozenset()
        cases.append(replace(case, unannotated=lacking))
    if problems:
        raise problems_error(problems)
    return replace(found, cases=tuple(cases))


def _declared(root: Path) -> tuple[Path, dict[str, Any]]:
    """The file that declares annotated classes, and what it declares, by case id."""
    files = [root] if root.is_file() else [root / name for name in _FILES]
    for path in files:
        content = peek_object(path).get(KEY) if path.is_file() and path.suffix == ".json" else None
        if content is None:
            continue
        lists = isinstance(content, Mapping) and all(isinstance(names, list) for names in content.values())
        if not lists:
            raise InputError(f'{path}: "{KEY}" is no map of cases to classes. Write {{"case_7": ["liver"]}}.')
        return path, dict(content)
    return next((path for path in files if path.is_file()), root), {}


def annotation_notes(found: CaseList) -> list[str]:
    """A sentence for each class that some cases do not annotate."""
    notes = []
    for class_id, name in found.classes.items():
        lacking = [case.id for case in found.cases if class_id in case.unannotated]
        if lacking:
            listed = ", ".join(lacking[:3]) + f" and {len(lacking) - 3} more" * (len(lacking) > 3)
            share = f"{len(lacking)} of {counted(len(found.cases), 'case')}"
            notes.append(
                f"{found.root}: {name} is not annotated in {share} ({listed}), in which it is neither trained on nor "
                "scored."
            )
    return notes
