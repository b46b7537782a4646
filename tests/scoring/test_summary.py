import csv
import json
import math

import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.summary import CaseFacts, mean_scores, read_metrics, summarise, write_metrics

NAMES = ["liver", "spleen"]


def score(dsc, iou, reference_ml=10.0, prediction_ml=9.0, **more):
    return {"dsc": dsc, "iou": iou, **more, "reference_ml": reference_ml, "prediction_ml": prediction_ml}


UNDEFINED = score(math.nan, math.nan, 0.0, 0.0)
CASES = {
    "a": {"liver": score(0.8, 0.6), "spleen": score(0.5, 0.3)},
    "b": {"liver": score(0.6, 0.4), "spleen": UNDEFINED},
    "c": {"liver": score(0.1, 0.05), "spleen": UNDEFINED},
}


def test_the_mean_is_over_volumes_then_over_classes():
    summary = summarise(CASES, NAMES)
    assert {"format", "rules", "notes", "absent", "mean", "intervals", "classes", "cases"} == summary.keys()
    assert summary["mean"]["dsc"] == pytest.approx((0.5 + 0.5) / 2)
    assert summary["mean"]["iou"] == pytest.approx((0.35 + 0.3) / 2)
    assert summary["mean"]["iou_with_background"] is None
    liver, spleen = summary["classes"]["liver"], summary["classes"]["spleen"]
    assert (liver["dsc"], liver["iou"]) == pytest.approx((0.5, 0.35))
    assert [liver[count] for count in ("cases", "undefined", "missed", "spurious")] == [3, 0, 0, 0]
    assert [spleen[count] for count in ("dsc", "cases", "undefined")] == [0.5, 3, 2]
    assert mean_scores(CASES, NAMES, ["dsc"]) == {"dsc": pytest.approx(summary["mean"]["dsc"])}


def test_cases_keep_every_score():
    facts = {"a": CaseFacts((1.0, 1.0, 2.5), (4, 5, 6), 0.9)}
    cases = summarise(CASES, NAMES, facts=facts)["cases"]
    assert cases["a"]["classes"]["spleen"] == {**CASES["a"]["spleen"], "outcome": "scored"}
    assert cases["a"]["mean"] == pytest.approx({"dsc": 0.65, "iou": 0.45})
    assert (cases["a"]["spacing_mm"], cases["a"]["shape"]) == ([1, 1, 2.5], [4, 5, 6])
    assert cases["b"]["classes"]["spleen"]["dsc"] is None
    assert cases["b"]["classes"]["spleen"]["outcome"] == "empty"


def test_the_miou_with_the_background_has_one_class_more():
    facts = {case: CaseFacts(background_iou=value) for case, value in zip(CASES, (0.9, 0.8, 1.0), strict=True)}
    assert summarise(CASES, NAMES, facts=facts)["mean"]["iou_with_background"] == pytest.approx((0.35 + 0.3 + 0.9) / 3)


def test_missed_and_spurious_classes_are_counted():
    cases = {
        "a": {"liver": score(0.0, 0.0, 5.0, 0.0, hd95=math.nan)},
        "b": {"liver": score(0.0, 0.0, 0.0, 5.0, hd95=math.nan)},
        "c": {"liver": score(0.9, 0.8, 5.0, 5.0, hd95=3.0)},
    }
    row = summarise(cases, ["liver"], MetricRules(metrics=("hd95",)))["classes"]["liver"]
    assert (row["hd95"], row["missed"], row["spurious"], row["undefined"]) == (3, 1, 1, 0)
    assert (row["statistics"]["hd95"]["defined"], row["statistics"]["dsc"]["defined"]) == (1, 3)


def test_a_class_without_a_defined_score_is_no_part_of_the_mean():
    summary = summarise({"a": {"liver": score(0.4, 0.2), "spleen": UNDEFINED}}, NAMES)
    assert summary["classes"]["spleen"]["dsc"] is None
    assert set(summary["classes"]["spleen"]["statistics"]["dsc"].values()) == {0, None}
    assert summary["mean"] == {"dsc": 0.4, "iou": 0.2, "iou_with_background": None}
    nothing = summarise({"a": {"liver": UNDEFINED, "spleen": UNDEFINED}}, NAMES)
    assert set(nothing["mean"].values()) == {None}


def test_spread_is_that_of_the_defined_cases():
    statistics = summarise(CASES, NAMES)["classes"]["liver"]["statistics"]["dsc"]
    values = np.array([0.8, 0.6, 0.1])
    assert statistics["median"] == 0.6
    assert statistics["sd"] == pytest.approx(values.std(ddof=1))
    assert (statistics["least"], statistics["greatest"], statistics["defined"]) == (0.1, 0.8, 3)
    single = summarise(CASES, NAMES)["classes"]["spleen"]["statistics"]["dsc"]
    assert [single[name] for name in ("mean", "sd", "low", "high")] == [0.5, None, None, None]


def test_intervals_are_seeded_and_hold_the_mean():
    random = np.random.default_rng(0)
    values = random.normal(0.7, 0.1, (60, 2))
    cases = {
        f"case_{index}": dict(zip(NAMES, (score(x, x) for x in row), strict=True)) for index, row in enumerate(values)
    }
    first, again, other = (summarise(cases, NAMES, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first["intervals"] != other["intervals"]
    low, high = first["intervals"]["dsc"]
    assert low < first["mean"]["dsc"] < high
    # The interval of a mean is the mean ± 1.96 standard errors, nearly.
    liver = first["classes"]["liver"]["statistics"]["dsc"]
    error = 1.96 * values[:, 0].std(ddof=1) / math.sqrt(60)
    assert (liver["low"], liver["high"]) == pytest.approx((liver["mean"] - error, liver["mean"] + error), abs=0.004)


def test_slices_are_pooled_as_papers_pool_them():
    cases = {
        "a": {"liver": score(0.5, 0.4, slice_dsc=0.5, slices=10.0)},
        "b": {"liver": score(0.5, 0.4, slice_dsc=0.8, slices=30.0)},
        "c": {"liver": score(math.nan, math.nan, 0.0, 0.0, slice_dsc=math.nan, slices=0.0)},
    }
    summary = summarise(cases, ["liver"], MetricRules(metrics=("slice_dsc",)))
    row = summary["classes"]["liver"]
    assert row["slice_dsc"] == pytest.approx(0.65)
    assert summary["mean"]["slice_dsc_pooled"] == row["slice_dsc_pooled"]
    assert (row["slice_dsc_pooled"], row["slices"]) == (pytest.approx((5 + 24) / 40), 40)


def test_files_hold_every_score_and_no_nan(tmp_path):
    summary = summarise(CASES, NAMES)
    write_metrics(tmp_path / "new", summary)
    text = (tmp_path / "new" / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == summary == read_metrics(tmp_path / "new")
    with (tmp_path / "new" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class"]) for row in rows] == [(case, name) for case in CASES for name in NAMES]
    assert rows[0] == {
        "case": "a", "class": "liver", "dsc": "0.8", "iou": "0.6", "reference_ml": "10.0", "prediction_ml": "9.0",
        "outcome": "scored",
    }  # fmt: skip
    assert (rows[3]["dsc"], rows[3]["outcome"]) == ("", "empty")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["metrics.csv", "metrics.json"]


def test_names_with_commas_and_accents_survive(tmp_path):
    write_metrics(tmp_path, summarise({"é, 1": {"foie, droit": score(1.0, 1.0)}}, ["foie, droit"]))
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1][:4] == ["é, 1", "foie, droit", "1.0", "1.0"]
    assert "é, 1" in read_metrics(tmp_path)["cases"]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no metrics\.json\. Score it with 'medsam-adapt evaluate'"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.json").write_text('{"mean": {}}')
    with pytest.raises(InputError, match="another version"):
        read_metrics(tmp_path)
