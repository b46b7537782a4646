import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou

from medsam_adapt.core.errors import InputError
from medsam_adapt.scoring.metrics import (
    ALL,
    QUICK,
    MetricRules,
    background_iou,
    choose_metrics,
    outcome,
    score_volume,
    slice_scores,
)
from medsam_adapt.scoring.summary import mean_scores
from medsam_adapt.scoring.surface import hausdorff95, surface_dice, surface_dice_by_area, surface_distances

NAMES = ["liver", "spleen"]
EVERYTHING = MetricRules(metrics=(*ALL, "slice_dsc"))
VOLUMES = ("reference_ml", "prediction_ml")


def scores_of(prediction, reference, names=NAMES, **options):
    arrays = [np.reshape(values, (2, 3, 1)).astype(np.uint8) for values in (prediction, reference)]
    return score_volume(*arrays, names, **options)


def overlap(score):
    return {name: score[name] for name in ("dsc", "iou")}


def random_labels(seed, shape=(9, 8, 7)):
    return np.random.default_rng(seed).integers(0, 3, (2, *shape))


def test_scores_are_those_computed_by_hand():
    scores = scores_of([1, 1, 1, 2, 0, 0], [1, 1, 0, 0, 2, 1])
    assert overlap(scores["liver"]) == pytest.approx({"dsc": 2 * 2 / (3 + 3), "iou": 2 / 4})
    assert overlap(scores["spleen"]) == {"dsc": 0, "iou": 0}
    assert overlap(scores_of([2] * 6, [2] * 6)["spleen"]) == {"dsc": 1, "iou": 1}


@pytest.mark.parametrize("seed", range(3))
def test_overlap_is_that_of_monai_on_any_view(seed):
    prediction, reference = random_labels(seed)
    scores = score_volume(prediction[::-1].transpose(2, 0, 1), reference[::-1].transpose(2, 0, 1), NAMES)
    for number, name in enumerate(NAMES, start=1):
        masks = [torch.from_numpy(volume == number)[None, None] for volume in (prediction, reference)]
        assert scores[name]["dsc"] == pytest.approx(float(compute_dice(*masks)), abs=1e-6)
        assert scores[name]["iou"] == pytest.approx(float(compute_iou(*masks)), abs=1e-6)


def test_a_bounding_box_changes_nothing():
    prediction, reference = np.zeros((2, 30, 28, 26), np.uint8)
    prediction[4:9, 5:9, 0:8], reference[3:9, 5:10, 2:9] = 1, 1
    prediction[20:22, 20:27, 20:26] = 2
    spacing = (0.7, 0.9, 3.0)
    for surface in ("voxels", "area"):
        rules = MetricRules(tolerance_mm=2.0, tolerances_mm={"LIVER": 0.5}, surface=surface)
        score = score_volume(prediction, reference, NAMES, spacing, rules)["liver"]
        distances = surface_distances(prediction == 1, reference == 1, spacing)
        assert score["hd95"] == hausdorff95(distances)
        nsd = (
            surface_dice(distances, 0.5)
            if surface == "voxels"
            else surface_dice_by_area(prediction == 1, reference == 1, spacing, 0.5)
        )
        assert score["nsd"] == pytest.approx(nsd)
        assert 0 < score["nsd"] < 1


def test_masks_in_any_form_score_alike():
    prediction, reference = random_labels(5)
    masks = [np.stack([volume == number for number in (1, 2)]) for volume in (prediction, reference)]
    named = [dict(zip(NAMES, pair, strict=True)) for pair in masks]
    expected = score_volume(prediction, reference, NAMES, rules=EVERYTHING)
    assert score_volume(*masks, NAMES, rules=EVERYTHING) == expected
    assert score_volume(*named, NAMES, rules=EVERYTHING) == expected
    assert score_volume(prediction.astype(np.float32), named[1], NAMES, rules=EVERYTHING) == expected
    assert background_iou(*masks) == background_iou(*named) == background_iou(prediction, reference)


def test_overlapping_classes_do_not_see_each_other():
    body = np.zeros((6, 6, 6), bool)
    body[1:5, 1:5, 1:5] = True
    part = np.zeros_like(body)
    part[2:4, 2:4, 2:4] = True
    scores = score_volume(np.stack([body, part]), np.stack([body, body]), NAMES)
    assert (scores["liver"]["dsc"], scores["spleen"]["dsc"]) == (1, 2 * 8 / (64 + 8))


def test_volumes_are_in_ml():
    scores = scores_of([1, 1, 1, 2, 0, 0], [1, 1, 0, 0, 0, 0], spacing=(10, 10, 20), rules=EVERYTHING)
    assert [scores["liver"][name] for name in VOLUMES] == [4, 6]
    assert scores["liver"]["volume_difference_ml"] == pytest.approx(2)
    assert scores["liver"]["volume_difference_relative"] == pytest.approx(0.5)
    assert scores["spleen"]["volume_difference_ml"] == pytest.approx(2)
    assert math.isnan(scores["spleen"]["volume_difference_relative"])


def test_the_background_has_an_iou():
    prediction, reference = (np.reshape(row, (2, 3, 1)) for row in ([1, 1, 1, 0, 0, 0], [0, 2, 1, 1, 0, 0]))
    assert background_iou(prediction, reference) == 2 / 4
    assert math.isnan(background_iou(np.ones((2, 2, 2)), np.ones((2, 2, 2))))


def test_empty_in_both_is_undefined_and_in_one_is_zero():
    both = scores_of([0] * 6, [0] * 6, rules=EVERYTHING)
    assert all(math.isnan(score[name]) for score in both.values() for name in EVERYTHING.metrics)
    spurious, missed = (
        scores_of(*pair, rules=EVERYTHING)["liver"] for pair in (([1] + 5 * [0], [0] * 6), ([0] * 6, [1] + 5 * [0]))
    )
    for score in (spurious, missed):
        assert (score["dsc"], score["iou"], score["nsd"]) == (0, 0, 0)
        assert math.isnan(score["hd95"])
    assert missed["volume_difference_relative"] == -1
    assert [outcome(score) for score in (both["liver"], spurious, missed)] == ["empty", "spurious", "missed"]
    assert outcome(scores_of([1] * 6, [1] * 6)["liver"]) == "scored"


def test_a_challenge_scores_empty_in_both_as_one():
    score = scores_of([0] * 6, [0] * 6, rules=MetricRules(empty_policy="challenge"))["liver"]
    assert (score["dsc"], score["iou"], score["nsd"]) == (1, 1, 1)
    assert math.isnan(score["hd95"])
    missed = scores_of([0] * 6, [1] * 6, rules=MetricRules(empty_policy="challenge"))["liver"]
    assert (missed["dsc"], missed["nsd"]) == (0, 0)


def test_a_distance_of_nothing_counts_for_nothing_under_a_challenges_rule_too():
    rules = MetricRules(empty_policy="challenge")
    found, nothing, missed = (
        scores_of(*pair, rules=rules)["liver"]
        for pair in (([0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]), ([0] * 6, [0] * 6), ([0] * 6, [1] + 5 * [0]))
    )
    cases = {name: {"liver": score} for name, score in zip("abc", (found, nothing, missed), strict=True)}
    means = mean_scores(cases, ["liver"], ["dsc", "hd95"])
    assert means["dsc"] == pytest.approx((0 + 1 + 0) / 3)
    assert means["hd95"] == found["hd95"] > 0


def test_a_class_that_training_never_saw_is_undefined():
    scores = scores_of([0] * 6, [2, 1, 0, 0, 0, 0], absent=["spleen"], rules=EVERYTHING)
    assert all(math.isnan(scores["spleen"][name]) for name in EVERYTHING.metrics)
    assert scores["liver"]["dsc"] == 0


def test_slices_without_the_structure_are_left_out():
    prediction, reference = np.zeros((2, 4, 4, 5), np.uint8)
    reference[:2, 0, 1:4] = 1
    prediction[0, 0, 1], prediction[:2, 0, 2], prediction[:, :, 0] = 1, 1, 1
    assert slice_scores(prediction > 0, reference > 0).tolist() == [2 / 3, 1, 0]
    score = score_volume(prediction, reference, ["liver"], rules=EVERYTHING)["liver"]
    assert (score["slice_dsc"], score["slices"]) == (pytest.approx(5 / 9), 3)
    turned = score_volume(
        prediction.transpose(2, 0, 1), reference.transpose(2, 0, 1), ["liver"], rules=EVERYTHING, slice_axis=0
    )
    assert turned["liver"]["slice_dsc"] == score["slice_dsc"]


def test_metrics_are_chosen_by_name():
    assert QUICK.metrics == choose_metrics(["dsc"]) == ("dsc", "iou")
    assert choose_metrics(["all"]) == MetricRules().metrics == ALL
    assert choose_metrics(["volume", "hd95"]) == (
        "dsc", "iou", "hd95", "volume_difference_ml", "volume_difference_relative",
    )  # fmt: skip
    assert set(scores_of([1] * 6, [1] * 6)["liver"]) == {"dsc", "iou", *VOLUMES}
    with pytest.raises(InputError, match=r"no 'hd'\. Use all, or some of dsc"):
        choose_metrics(["hd"])
