import csv
import json
import math

import numpy as np
import pytest
from scipy import stats

from medsam_adapt.comparison.run import ScoredRun, compare_runs, holm, wilcoxon
from medsam_adapt.comparison.tables import as_markdown, duration, write_comparison
from medsam_adapt.core.errors import InputError
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.summary import summarise

NAMES = ["liver", "spleen"]
RULES = MetricRules(metrics=("dsc", "iou", "hd95"))


def run_of(method, dsc, seed=0, first_case=0, missed=(), **more):
    """A run whose cases have these DSC, (cases, classes); HD95 is 10 (1 - DSC)."""
    cases = {}
    for index, row in enumerate(dsc, start=first_case):
        cases[f"case_{index:02d}"] = {
            name: {
                "dsc": float(value),
                "iou": float(value) / (2 - float(value)),
                "hd95": math.nan if (index, name) in missed else 10 * (1 - float(value)),
                "reference_ml": 10.0,
                "prediction_ml": 0.0 if (index, name) in missed else 9.0,
            }
            for name, value in zip(NAMES, row, strict=True)
        }
    return ScoredRun(method, seed, summarise(cases, NAMES, RULES), f"runs/{method}", **more)


@pytest.fixture
def scores():
    random = np.random.default_rng(0)
    easy = random.uniform(0.6, 0.9, (12, 2))
    return {"good": easy + 0.05, "same": easy + random.normal(0, 0.01, easy.shape), "poor": easy - 0.2}


def test_methods_are_ranked_and_tested(scores):
    content = compare_runs([run_of(method, dsc) for method, dsc in scores.items()])
    assert [(name, row["rank"]) for name, row in content["methods"].items()] == [("good", 1), ("same", 2), ("poor", 3)]
    for method, dsc in scores.items():
        mean = content["methods"][method]["mean"]["dsc"]
        assert mean["mean"] == pytest.approx(dsc.mean())
        assert mean["sd_cases"] == pytest.approx(dsc.mean(axis=1).std(ddof=1))
        assert mean["sd_seeds"] is None
        spleen = content["methods"][method]["by_class"]["spleen"]["dsc"]
        assert (spleen["mean"], spleen["sd_cases"]) == pytest.approx((dsc[:, 1].mean(), dsc[:, 1].std(ddof=1)))
    tests = {(test["first"], test["second"]): test for test in content["tests"]["dsc"]}
    good, same = (scores[method].mean(axis=1) for method in ("good", "same"))
    assert tests["good", "same"]["p"] == pytest.approx(stats.wilcoxon(good, same).pvalue)
    assert tests["good", "poor"]["difference"] == pytest.approx(0.25)
    assert tests["good", "poor"]["p_holm"] == pytest.approx(3 * 2.0**-11)  # the least of three, twelve cases
    assert not content["notes"]


def test_seeds_are_averaged_case_by_case(scores):
    runs = [run_of("a", scores["good"], 0), run_of("a", scores["poor"], 1), run_of("b", scores["same"])]
    content = compare_runs(runs)
    both = (scores["good"] + scores["poor"]) / 2
    row = content["methods"]["a"]["mean"]["dsc"]
    assert (row["mean"], row["sd_cases"]) == pytest.approx((both.mean(), both.mean(axis=1).std(ddof=1)))
    assert row["sd_seeds"] == pytest.approx(0.25 / math.sqrt(2))
    assert content["seeds"] == {"a": [0, 1], "b": [0]}
    assert content["tests"]["dsc"][0]["p"] == pytest.approx(
        stats.wilcoxon(both.mean(axis=1), scores["same"].mean(axis=1)).pvalue
    )


def test_folds_make_one_set_of_cases(scores):
    dsc = scores["good"]
    folds = [run_of("a", dsc[:5]), run_of("a", dsc[5:], first_case=5)]
    content = compare_runs([*folds, run_of("b", scores["same"])])
    assert content["cases"] == [f"case_{index:02d}" for index in range(12)]
    assert content["methods"]["a"]["mean"]["dsc"]["mean"] == pytest.approx(dsc.mean())
    assert content["methods"]["a"]["runs"] == 2


def test_a_missed_structure_leaves_no_distance_and_is_counted(scores):
    missed = {(3, "liver"), (4, "liver"), (4, "spleen")}
    content = compare_runs([run_of("a", scores["good"], missed=missed), run_of("b", scores["same"])])
    assert (content["methods"]["a"]["missed"], content["methods"]["b"]["missed"]) == (3, 0)
    (test,) = content["tests"]["hd95"]
    assert test["cases"] == 11  # of case 4 nothing is left to compare
    kept = np.ones((12, 2))
    for case, name in missed:
        kept[case, NAMES.index(name)] = np.nan
    a, b = (np.nanmean((10 * (1 - scores[method]) * kept)[np.arange(12) != 4], axis=1) for method in ("good", "same"))
    assert test["p"] == pytest.approx(stats.wilcoxon(a, b).pvalue)


def test_means_of_hd95_over_different_structures_say_so(scores):
    dsc = scores["good"]
    whole, other = run_of("a", dsc), run_of("b", dsc)
    assert not any("HD95" in note for note in compare_runs([whole, other])["notes"])
    lacking = run_of("c", dsc, missed=[(0, "spleen")])
    (note,) = [note for note in compare_runs([whole, other, lacking])["notes"] if "HD95" in note]
    count = dsc.size
    assert f"over different structures, since those that a method misses have none (a {count}, b {count}, " in note
    assert f"c {count - 1} of {count})" in note


def test_cost_is_told(scores):
    runs = [
        run_of("a", scores["good"], seed, trainable=512, seconds=100.0 + seed, peak_memory_bytes=(1 + seed) << 30)
        for seed in (0, 1)
    ]
    row = compare_runs([*runs, run_of("b", scores["same"])])["methods"]["a"]
    assert (row["trainable"], row["seconds_per_run"], row["peak_memory_bytes"]) == (512, 100.5, 2 << 30)


def test_few_cases_are_told(scores):
    runs = [run_of(method, scores[method][:3]) for method in ("good", "poor")]
    (note,) = compare_runs(runs)["notes"]
    assert "With 3 cases no difference can be significant" in note
    assert "the smallest p that the test can give is 0.25" in note


def test_few_cases_for_many_methods_are_told(scores):
    runs = [run_of(str(method), scores["good"][:7]) for method in range(7)]
    (note,) = compare_runs(runs)["notes"]
    assert "the smallest p that the test can give, corrected for 21 pairs of methods, is 0.33" in note
    assert compare_runs(runs[:2])["notes"] == []


def test_what_cannot_be_compared_is_refused(scores):
    run = run_of("a", scores["good"])
    with pytest.raises(InputError, match="Give two methods"):
        compare_runs([run])
    with pytest.raises(InputError, match="b, seed 0: it was not scored on the case 'case_11'"):
        compare_runs([run, run_of("b", scores["good"][:11])])
    with pytest.raises(InputError, match="both scored the case 'case_00' as one method"):
        compare_runs([run, run, run_of("b", scores["good"])])
    other = summarise({}, ["liver", "aorta"], RULES)
    with pytest.raises(InputError, match="differ in the class 'aorta'"):
        compare_runs([run, ScoredRun("b", 0, other, "runs/b")])
    other = {**run.summary, "rules": {**run.summary["rules"], "empty_policy": "challenge"}}
    with pytest.raises(InputError, match=r"scored by different rules \(empty_policy\)"):
        compare_runs([run, ScoredRun("b", 0, other, "runs/b")])


def test_holm_is_that_of_his_paper():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    corrected = holm([0.5, math.nan, 0.9])
    assert corrected[::2] == [1.0, 1.0]
    assert math.isnan(corrected[1])


def test_wilcoxon_of_equal_or_undefined_scores():
    values = np.array([0.1, 0.2, 0.3])
    assert wilcoxon(values, values) == 1
    assert math.isnan(wilcoxon(values, np.full(3, np.nan)))
    assert wilcoxon(np.append(values, np.nan), np.append(values + 0.1, 5.0)) == pytest.approx(0.25)


def test_files_hold_the_comparison(scores, tmp_path):
    runs = [run_of(method, dsc, trainable=10, seconds=90.0) for method, dsc in scores.items()]
    content = compare_runs(runs)
    write_comparison(tmp_path, content)
    assert json.loads((tmp_path / "compare.json").read_text(), parse_constant=pytest.fail) == content
    with (tmp_path / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["class"]) for row in rows[:3]] == [
        ("good", "mean"),
        ("good", "liver"),
        ("good", "spleen"),
    ]
    assert float(rows[0]["dsc_mean"]) == pytest.approx(scores["good"].mean())
    assert rows[0]["dsc_sd_seeds"] == ""
    text = (tmp_path / "compare.md").read_text()
    assert text == as_markdown(content)
    assert "| good | 10 | 90 s |" in text
    assert "| good − poor | +0.250 | 12 | <0.001 | 0.001 |" in text


def test_every_score_is_a_row(scores, tmp_path):
    runs = [run_of(method, scores[method], seed) for method in ("good", "poor") for seed in (0, 1)]
    runs[0] = run_of("good", scores["good"], missed=[(3, "liver")])
    written = write_comparison(tmp_path, compare_runs(runs), runs)
    assert [path.name for path in written] == ["compare.md", "compare.csv", "compare_cases.csv", "compare.json"]
    with (tmp_path / "compare_cases.csv").open(newline="") as file:
        rows = {(row["method"], row["seed"], row["case"], row["class"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * 2 * 12 * 2
    assert float(rows["poor", "1", "case_07", "spleen"]["dsc"]) == pytest.approx(scores["poor"][7, 1])
    assert rows["good", "0", "case_03", "liver"]["hd95"] == ""
    assert float(rows["good", "1", "case_03", "liver"]["hd95"]) == pytest.approx(10 * (1 - scores["good"][3, 0]))
    write_comparison(tmp_path / "other", compare_runs(runs))
    assert not (tmp_path / "other" / "compare_cases.csv").exists()


def test_durations_are_readable():
    assert [duration(x) for x in (None, 90, 150, 9000)] == ["–", "90 s", "2 min", "2.5 h"]
