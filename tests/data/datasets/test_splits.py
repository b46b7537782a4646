import random
from pathlib import Path

import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.splits import (
    Split,
    choose_split,
    continued_split,
    fold_cases,
    load_split,
    save_split,
    split_cases,
)
from medsam_adapt.data.volumes.case import Case


def cases(count, per_patient=1):
    return [Case(f"c{n:02}", Path("x"), patient=f"p{n // per_patient}") for n in range(count)]


@pytest.mark.parametrize(("patients", "held_out"), [(1, 0), (2, 0), (3, 1), (10, 2), (33, 7)])
def test_a_split_is_seeded_whole_and_of_the_right_size(patients, held_out):
    split = split_cases(cases(patients), seed=3)
    assert len(split.held_out) == held_out
    assert sorted(split.train + split.held_out) == [case.id for case in cases(patients)]
    shuffled = random.Random(0).sample(cases(patients), patients)
    assert split_cases(shuffled, seed=3) == split
    if patients >= 10:
        assert split_cases(cases(patients), seed=4) != split


def test_the_cases_of_a_patient_stay_together():
    split = split_cases(cases(40, per_patient=4), seed=0)
    of = {case.id: case.patient_id for case in cases(40, per_patient=4)}
    assert len(split.held_out) == 8
    assert not {of[key] for key in split.train} & {of[key] for key in split.held_out}


def test_the_held_out_fraction_has_limits():
    assert split_cases(cases(10), seed=0, held_out_fraction=0).held_out == ()
    assert len(split_cases(cases(4), seed=0, held_out_fraction=0.99).train) == 1
    with pytest.raises(InputError, match=r"fraction is 1\.5; give 0 or more"):
        split_cases(cases(4), seed=0, held_out_fraction=1.5)


def test_a_continued_split_holds_out_who_was_held_out_and_nobody_who_was_trained_on():
    for seed in range(20):
        split = continued_split(cases(12), trained=["c03", "c04", "gone"], held_out=["c01", "away"], seed=seed)
        assert "c01" in split.held_out
        assert {"c03", "c04"} <= {*split.train}
        assert len(split.held_out) == 2  # a fifth of 12 patients: one of the new ones too
        assert sorted(split.train + split.held_out) == [case.id for case in cases(12)]


def test_a_continued_split_goes_by_patient():
    split = continued_split(cases(8, per_patient=2), trained=["c00"], held_out=["c03"], seed=0, held_out_fraction=0)
    assert split.held_out == ("c02", "c03")


def test_a_continued_split_holds_out_nobody_new_where_enough_are_held_out():
    split = continued_split(cases(5), trained=[], held_out=["c01", "c02"], seed=0)
    assert split.held_out == ("c01", "c02")


def test_one_case_is_left_to_train_on_or_the_split_is_refused():
    split = continued_split(cases(3), trained=[], held_out=["c00", "c01"], seed=0, held_out_fraction=0.9)
    assert split.train == ("c02",)
    with pytest.raises(InputError, match="all cases were held out by the run to start from"):
        continued_split(cases(2), trained=[], held_out=["c00", "c01"], seed=0)


def test_a_split_is_saved_and_loaded(tmp_path):
    split = Split(("a", "b"), ("c",))
    save_split(tmp_path / "splits.json", split, seed=1)
    assert load_split(tmp_path / "splits.json") == split
    assert [path.name for path in tmp_path.iterdir()] == ["splits.json"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"train": ["a"],\n', r"splits\.json is not JSON at line 2"),
        ('{"train": ["a"]}', r"splits\.json is no split; give it 'held_out', a list"),
        ('{"train": ["a"], "held_out": ["a"]}', r"splits\.json has 'a' both in.*remove"),
    ],
)
def test_a_bad_split_is_told(tmp_path, content, sentence):
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        load_split(tmp_path / "splits.json")


def test_every_patient_is_held_out_in_one_fold():
    folds = fold_cases(cases(22, per_patient=2), seed=5, folds=4)
    held_out = [case_id for split in folds for case_id in split.held_out]
    assert sorted(held_out) == [case.id for case in cases(22)]
    of = {case.id: case.patient_id for case in cases(22, per_patient=2)}
    for split in folds:
        assert sorted(split.train + split.held_out) == sorted(of)
        assert not {of[key] for key in split.train} & {of[key] for key in split.held_out}
        assert len(split.held_out) in (4, 6)
    shuffled = random.Random(0).sample(cases(22, per_patient=2), 22)
    assert fold_cases(shuffled, seed=5, folds=4) == folds
    assert fold_cases(cases(22, per_patient=2), seed=6, folds=4) != folds


@pytest.mark.parametrize(
    ("folds", "sentence"), [(1, "1 folds cannot be: give 2 or more"), (4, "3 patients cannot be dealt into 4 folds")]
)
def test_folds_that_cannot_be_are_told(folds, sentence):
    with pytest.raises(InputError, match=sentence):
        fold_cases(cases(6, per_patient=2), seed=0, folds=folds)


def test_folds_are_saved_and_loaded(tmp_path):
    folds = fold_cases(cases(6), seed=0, folds=3)
    save_split(tmp_path / "splits.json", folds, seed=0)
    assert tuple(load_split(tmp_path / "splits.json", fold) for fold in range(3)) == folds
    assert choose_split([], 0, split_file=tmp_path / "splits.json", fold=2) == folds[2]
    assert choose_split(cases(6), 0, fold=2, folds=3) == folds[2]  # the same without a file
    for fold, sentence in ((None, "holds 3 folds; choose one with --fold, from 0 to 2"), (3, "has no fold 3")):
        with pytest.raises(InputError, match=sentence):
            load_split(tmp_path / "splits.json", fold)
    with pytest.raises(InputError, match="there is no fold 3 of 3; they are counted from 0 to 2"):
        choose_split(cases(6), 0, fold=3, folds=3)


def test_a_file_of_one_split_has_no_folds(tmp_path):
    save_split(tmp_path / "splits.json", Split(("a",), ("b",)), seed=0)
    with pytest.raises(InputError, match=r"splits\.json holds one split and no folds; leave out --fold"):
        load_split(tmp_path / "splits.json", fold=0)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"folds": []}', r"splits\.json is no split; give it \"folds\""),
        ('{"folds": [1]}', r"give it \"folds\", a list"),
        ('{"folds": [{"train": ["a"], "held_out": ["b"]}, {"train": ["a"]}]}', r"fold 1 of .*give it 'held_out'"),
        ('{"folds": [{"train": ["a"], "held_out": ["a"]}]}', r"fold 0 of .*splits\.json has 'a' both"),
    ],
)
def test_bad_folds_are_told(tmp_path, content, sentence):
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        load_split(tmp_path / "splits.json", 0)
