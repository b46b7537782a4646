"""Who is trained on and who is held out: by patient, decided by a seed, and kept in a file.

A split file holds one split, {"seed", "train", "held_out"}, or all those of a cross-validation, {"seed", "folds":
[{"train", "held_out"}, ...]}; folds are counted from 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.config import FOLDS, HELD_OUT
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import write_json
from medsam_adapt.core.json_files import read_object
from medsam_adapt.core.text import counted
from medsam_adapt.data.volumes.case import Case

_PATIENTS_FOR_ONE_HELD_OUT = 10


@dataclass(frozen=True)
class Split:
    """Ids of the cases to train on and of those held out, each sorted."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def split_cases(cases: Iterable[Case], seed: int, held_out_fraction: float | None = HELD_OUT) -> Split:
    """A seeded split by patient; the order of ``cases`` does not matter.

    With fewer than three patients nothing is held out; otherwise at least one patient is, and at least one trained on.
    A fraction of None holds out a tenth of ten patients or more, and nothing of fewer: their labels are worth more in
    training.

    Raises:
        InputError: a fraction outside [0, 1).
    """
    if held_out_fraction is not None and not 0 <= held_out_fraction < 1:
        raise InputError(f"held_out_fraction: it is {held_out_fraction}. Give 0 or more and less than 1.")
    cases = list(cases)
    patients = _shuffled_patients(cases, seed)
    count = 0
    if held_out_fraction is None:
        count = len(patients) // _PATIENTS_FOR_ONE_HELD_OUT
    elif len(patients) >= 3 and held_out_fraction > 0:
        count = min(max(1, round(held_out_fraction * len(patients))), len(patients) - 1)
    return _hold_out(cases, set(patients[:count]))


def continued_split(
    cases: Iterable[Case],
    trained: Collection[str],
    held_out: Collection[str],
    seed: int,
    held_out_fraction: float | None = HELD_OUT,
) -> Split:
    """The split of a run that continues from earlier ones: who was held out stays so, and who was trained on too.

    A patient whom the weights have seen would be scored too well, and one who was held out would be lost for a
    comparison with the earlier runs. Patients that are new are held out as far as the fraction asks for more.

    Args:
        cases: of the data set.
        trained: ids of cases that earlier runs were trained on; those that are not in the data set are ignored.
        held_out: ids of cases that earlier runs held out.
        seed: of the draw among the new patients.
        held_out_fraction: as for `split_cases`.

    Raises:
        InputError: a fraction outside [0, 1), or no case that may be trained on.
    """
    cases = list(cases)
    wanted = len({case.patient_id for case in cases if case.id in split_cases(cases, seed, held_out_fraction).held_out})
    kept = {case.patient_id for case in cases if case.id in held_out}
    seen = {case.patient_id for case in cases if case.id in trained}
    new = [patient for patient in _shuffled_patients(cases, seed) if patient not in kept | seen]
    more = max(0, wanted - len(kept))
    split = _hold_out(cases, kept | {*new[: more if seen - kept else min(more, len(new) - 1)]})
    if not split.train:
        raise InputError(
            "--data: all cases were held out by the run to start from, so that none is left to train on. Add labelled "
            "cases."
        )
    return split


def fold_cases(cases: Iterable[Case], seed: int, folds: int = FOLDS) -> tuple[Split, ...]:
    """The splits of a cross-validation, by patient: every case is held out in one of them.

    The order of ``cases`` does not matter; the numbers of patients held out differ by one at most.

    Raises:
        InputError: fewer than two folds, or fewer patients than folds.
    """
    cases = list(cases)
    patients = _shuffled_patients(cases, seed)
    if folds < 2:
        raise InputError(f"--folds {folds}: there must be at least 2. Give 2 or more.")
    if len(patients) < folds:
        raise InputError(
            f"--folds {folds}: there {'is' if len(patients) == 1 else 'are'} only {counted(len(patients), 'patient')}. "
            "Give fewer folds or more patients."
        )
    return tuple(_hold_out(cases, set(part.tolist())) for part in np.array_split(patients, folds))


def why_none_is_held_out(held_out_fraction: float | None, split_file: str | Path | None = None) -> str:
    """The reason for a split that holds nobody out, as the beginning of a sentence."""
    if split_file is not None:
        return f"{split_file} has an empty held_out"
    if held_out_fraction is None:
        return f"there are fewer than {_PATIENTS_FOR_ONE_HELD_OUT} patients"
    return "held_out is 0" if held_out_fraction == 0 else "there are fewer than three patients"


def _shuffled_patients(cases: Sequence[Case], seed: int) -> list[str]:
    patients = sorted({case.patient_id for case in cases})
    return [patients[index] for index in np.random.default_rng(seed).permutation(len(patients))]


def _hold_out(cases: Sequence[Case], patients: set[str]) -> Split:
    cases = sorted(cases, key=lambda case: case.id)
    return Split(
        train=tuple(case.id for case in cases if case.patient_id not in patients),
        held_out=tuple(case.id for case in cases if case.patient_id in patients),
    )


def choose_split(
    cases: Iterable[Case],
    seed: int,
    held_out_fraction: float | None = HELD_OUT,
    split_file: str | Path | None = None,
    fold: int | None = None,
    folds: int = FOLDS,
) -> Split:
    """The split of a run: of a file, one fold of a cross-validation, or a part held out.

    Raises:
        InputError: as the functions below and above, and a fold that there is not.
    """
    if split_file is not None:
        return load_split(split_file, fold)
    if fold is None:
        return split_cases(cases, seed, held_out_fraction)
    if not 0 <= fold < folds:
        raise InputError(f"--fold {fold}: there are {folds} folds. Give a number from 0 to {folds - 1}.")
    return fold_cases(cases, seed, folds)[fold]


# ------------------------------------------------------------------------------------------------------------- files


def save_split(path: str | Path, split: Split | Sequence[Split], seed: int) -> None:
    """Write one split, or all of a cross-validation, and the seed as JSON."""
    content = _as_json(split) if isinstance(split, Split) else {"folds": [_as_json(fold) for fold in split]}
    write_json(path, {"seed": seed, **content})


def load_split(path: str | Path, fold: int | None = None) -> Split:
    """The split of a file that `save_split` wrote.

    Args:
        path: the file.
        fold: which of its splits, where it holds those of a cross-validation.

    Raises:
        InputError: no such file, not JSON, not lists of ids, a case on both sides, a fold that the file does not
            have, or none named where it has several.
    """
    content = read_object(Path(path))
    if "folds" not in content:
        if fold is not None:
            raise InputError(
                f"{path}: it holds one split and no folds. Leave out --fold, or make folds with 'data split'."
            )
        return _from_json(content, str(path))
    folds = content["folds"]
    if not isinstance(folds, list) or not folds or not all(isinstance(entry, dict) for entry in folds):
        raise InputError(
            f'{path}: it is not a split. Give it "folds", a list of {{"train": [...], "held_out": [...]}}.'
        )
    splits = [_from_json(entry, f"fold {index} of {path}") for index, entry in enumerate(folds)]
    if fold is None:
        raise InputError(
            f"{path}: it holds {counted(len(splits), 'fold')}. Choose one with --fold, from 0 to {len(splits) - 1}."
        )
    if not 0 <= fold < len(splits):
        raise InputError(f"{path}: it has no fold {fold}. Choose one from 0 to {len(splits) - 1}.")
    return splits[fold]


def _as_json(split: Split) -> dict[str, list[str]]:
    return {"train": list(split.train), "held_out": list(split.held_out)}


def _from_json(content: dict[str, Any], where: str) -> Split:
    sides: list[tuple[str, ...]] = []
    for name in ("train", "held_out"):
        side = content.get(name)
        if not isinstance(side, list) or not all(isinstance(case_id, str) for case_id in side):
            raise InputError(f"{where}: it is not a split. Give it {name!r}, a list of case ids.")
        sides.append(tuple(side))
    train, held_out = sides
    if both := sorted(set(train) & set(held_out)):
        raise InputError(f"{where}: it has {both[0]!r} both in train and in held_out. Remove it from one of them.")
    return Split(train, held_out)
