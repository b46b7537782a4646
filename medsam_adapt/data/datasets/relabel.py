"""Other numbers and names for the labels of a data set.

A map is written in JSON, from what a label is to what it shall be:

    {"1": "liver", "2": "spleen"}         names for ids; the ids stay
    {"3": 1, "left kidney": 2}            other ids for labels, by id or by name; their names go along
    {"left kidney": "kidney", "right kidney": "kidney"}   two labels become one, under the first one's id

Labels that a map does not mention become background; those that ``--rename`` does not mention stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.json_files import read_object
from medsam_adapt.core.text import class_key, did_you_mean
from medsam_adapt.data.volumes.io import LARGEST_LABEL


@dataclass(frozen=True)
class Changes:
    """What is to become of the labels.

    Attributes:
        entries: old id or name -> new id or name.
        keep_others: whether labels that are not mentioned stay; otherwise they become background.
        source: where the entries come from, for the sentences.
    """

    entries: Mapping[str, int | str]
    keep_others: bool
    source: str


def read_map(path: str | Path) -> Changes:
    """The map of a JSON file.

    Raises:
        InputError: as `read_object`; an entry that is no pair of a label and its new id or name.
    """
    return Changes(_checked(read_object(Path(path)), str(path)), keep_others=False, source=str(path))


def read_pairs(pairs: Sequence[str]) -> Changes:
    """The map that ``OLD=NEW`` pairs give.

    Raises:
        InputError: no ``=``, nothing on one side, or an old label given twice.
    """
    entries: dict[str, int | str] = {}
    for pair in pairs:
        old, equals, new = (part.strip() for part in pair.partition("="))
        if not (old and equals and new):
            raise InputError(f"--rename {pair}: it is not OLD=NEW. Write the id or name of a label on each side.")
        if old in entries:
            raise InputError(f"--rename: it has {old!r} twice. Leave one of them out.")
        entries[old] = int(new) if new.isdecimal() else new
    return Changes(_checked(entries, "--rename"), keep_others=True, source="--rename")


def _checked(entries: Mapping[str, Any], source: str) -> dict[str, int | str]:
    fix = 'Write labels as {"1": "liver"} or {"old": new}.'
    problems = []
    for old, new in entries.items():
        whole = isinstance(new, int) and not isinstance(new, bool) and 0 <= new <= LARGEST_LABEL
        if not old.strip() or not (whole or (isinstance(new, str) and new.strip())):
            problems.append(f"{source}: {old!r} would become {new!r}, which is not the id or name of a label. {fix}")
    if problems or not entries:
        raise problems_error(problems or [f"{source}: it is empty. {fix}"])
    return {old.strip(): new.strip() if isinstance(new, str) else new for old, new in entries.items()}


def relabel(
    classes: Mapping[int, str], changes: Changes | None, wanted: Sequence[str] | None = None
) -> tuple[dict[int, str], dict[int, int]]:
    """The labels after the changes, and which old id becomes which new one (the others become background).

    Args:
        classes: id -> name of the labels that there are.
        changes: what is to become of them; None for nothing.
        wanted: names, after the changes, of the classes to keep; all when None.

    Returns:
        new id -> name in ascending order, and old id -> new id.

    Raises:
        InputError: an old label that there is not, two names for one new id, a wanted class that there is not.
    """
    ids = {class_key(name): class_id for class_id, name in classes.items()}
    new_ids: dict[int, int] = {}
    names: dict[int, str] = {}
    problems: list[str] = []
    source = changes.source if changes else "labels"
    mapping = _resolve(classes, ids, changes, problems)
    by_name: dict[str, int] = {}
    for old, new in mapping.items():
        if new == 0:
            continue
        new_id = by_name.setdefault(class_key(new), old) if isinstance(new, str) else new
        name = new if isinstance(new, str) else classes[old]
        if class_key(names.setdefault(new_id, name)) != class_key(name) and isinstance(new, str):
            problems.append(
                f"{source}: the label {new_id} would be both {names[new_id]!r} and {name!r}. Correct one of them."
            )
        new_ids[old] = new_id
    for new_id, name in names.items():
        if any(other < new_id and class_key(names[other]) == class_key(name) for other in names):
            problems.append(f"{source}: {name!r} would be the name of more than one label. Give each a unique name.")
    if wanted is not None:
        keep = {class_key(name) for name in names.values()}
        known = ", ".join(names.values())
        problems += [
            f"--classes: there is no {name!r}.{did_you_mean(class_key(name), keep)} Choose from {known}."
            for name in wanted
            if class_key(name) not in keep
        ]
        chosen = {class_key(name) for name in wanted}
        names = {new_id: name for new_id, name in names.items() if class_key(name) in chosen}
        new_ids = {old: new_id for old, new_id in new_ids.items() if new_id in names}
    if problems:
        raise problems_error(problems)
    return dict(sorted(names.items())), new_ids


def _resolve(
    classes: Mapping[int, str], ids: Mapping[str, int], changes: Changes | None, problems: list[str]
) -> dict[int, int | str]:
    """Old id -> new id or name, of every label that is kept, in ascending order of the old ids."""
    if changes is None:
        return dict(classes)
    mapping: dict[int, int | str] = dict(classes) if changes.keep_others else {}
    for old, new in changes.entries.items():
        class_id = int(old) if old.isdecimal() else ids.get(class_key(old))
        if class_id == 0 and (new == 0 or class_key(str(new)) == "background"):
            continue
        if class_id not in classes:
            known = ", ".join(f"{class_id} {name}" for class_id, name in classes.items())
            hint = did_you_mean(class_key(old), ids)
            problems.append(f"{changes.source}: there is no label {old!r}.{hint} Choose from {known}.")
        else:
            assert class_id is not None
            mapping[class_id] = new
    return dict(sorted(mapping.items()))
