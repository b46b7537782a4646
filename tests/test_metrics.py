import csv
import json
import math

import numpy as np
import pytest

from medsam_adapt.metrics import score_volume, summarise, write_metrics

NAMES = ["liver", "spleen"]
UNDEFINED = {"dsc": math.nan, "iou": math.nan}


def scores_of(prediction, reference, names=NAMES):
    arrays = [np.reshape(values, (2, 3, 1)).astype(np.uint8) for values in (prediction, reference)]
    return score_volume(*arrays, names)


def test_scores_are_those_computed_by_hand():
    scores = scores_of([1, 1, 1, 2, 0, 0], [1, 1, 0, 0, 2, 1])
    assert scores["liver"] == pytest.approx({"dsc": 2 * 2 / (3 + 3), "iou": 2 / 4})
    assert scores["spleen"] == {"dsc": 0, "iou": 0}
    assert scores_of([2] * 6, [2] * 6)["spleen"] == {"dsc": 1, "iou": 1}


@pytest.mark.parametrize("seed", range(3))
def test_scores_follow_the_formula_on_any_view(seed):
    random = np.random.default_rng(seed)
    prediction, reference = random.integers(0, 3, (2, 9, 8, 7))
    scores = score_volume(prediction[::-1].transpose(2, 0, 1), reference[::-1].transpose(2, 0, 1), NAMES)
    for number, name in enumerate(NAMES, start=1):
        a, b = prediction == number, reference == number
        assert scores[name]["dsc"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert scores[name]["iou"] == pytest.approx((a & b).sum() / (a | b).sum())


def test_empty_in_both_is_undefined_and_in_one_is_zero():
    both = scores_of([0] * 6, [0] * 6)
    assert all(math.isnan(value) for score in both.values() for value in score.values())
    only_predicted, missed = scores_of([1] + 5 * [0], [0] * 6), scores_of([0] * 6, [1] + 5 * [0])
    assert only_predicted["liver"] == missed["liver"] == {"dsc": 0, "iou": 0}
    assert math.isnan(missed["spleen"]["dsc"])


CASES = {
    "a": {"liver": {"dsc": 0.8, "iou": 0.6}, "spleen": {"dsc": 0.5, "iou": 0.3}},
    "b": {"liver": {"dsc": 0.6, "iou": 0.4}, "spleen": UNDEFINED},
    "c": {"liver": {"dsc": 0.1, "iou": 0.05}, "spleen": UNDEFINED},
}


def test_the_mean_is_over_volumes_then_over_classes():
    summary = summarise(CASES, NAMES)
    assert summary.keys() == {"mean", "classes", "cases"}
    assert summary["mean"] == pytest.approx({"dsc": (0.5 + 0.5) / 2, "iou": (0.35 + 0.3) / 2})
    assert summary["classes"] == {
        "liver": pytest.approx({"dsc": 0.5, "iou": 0.35, "cases": 3, "undefined": 0}),
        "spleen": {"dsc": 0.5, "iou": 0.3, "cases": 3, "undefined": 2},
    }
    assert summary["cases"]["a"] == CASES["a"]
    assert summary["cases"]["b"]["spleen"] == {"dsc": None, "iou": None}


def test_a_class_without_a_defined_score_is_no_part_of_the_mean():
    summary = summarise({"a": {"liver": {"dsc": 0.4, "iou": 0.2}, "spleen": UNDEFINED}}, NAMES)
    assert summary["classes"]["spleen"] == {"dsc": None, "iou": None, "cases": 1, "undefined": 1}
    assert summary["mean"] == {"dsc": 0.4, "iou": 0.2}
    nothing = summarise({"a": {"liver": UNDEFINED, "spleen": UNDEFINED}}, NAMES)
    assert nothing["mean"] == {"dsc": None, "iou": None}


def test_files_hold_every_score_and_no_nan(tmp_path):
    write_metrics(tmp_path / "new", CASES, summarise(CASES, NAMES))
    text = (tmp_path / "new" / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == summarise(CASES, NAMES)
    with (tmp_path / "new" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class"]) for row in rows] == [(case, name) for case in CASES for name in NAMES]
    assert rows[0] == {"case": "a", "class": "liver", "dsc": "0.8", "iou": "0.6"}
    assert rows[3] == {"case": "b", "class": "spleen", "dsc": "", "iou": ""}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["metrics.csv", "metrics.json"]


def test_names_with_commas_and_accents_survive(tmp_path):
    cases = {"é, 1": {"foie, droit": {"dsc": 1.0, "iou": 1.0}}}
    write_metrics(tmp_path, cases, summarise(cases, ["foie, droit"]))
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == ["é, 1", "foie, droit", "1.0", "1.0"]
    assert "é, 1" in json.loads((tmp_path / "metrics.json").read_text())["cases"]
