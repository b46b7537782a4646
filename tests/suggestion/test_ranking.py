import numpy as np
import pytest

from medsam_adapt.suggestion.ranking import pick_scans, standardised

NOTHING = np.empty((0, 1))


def order(picks):
    return [pick.index for pick in picks]


def test_the_most_uncertain_scan_is_first_where_all_look_alike():
    features = np.zeros((3, 1))
    picks = pick_scans({"uncertainty": np.array([0.1, 0.9, 0.5])}, features, np.zeros((1, 1)), 3)
    assert order(picks) == [1, 2, 0]


def test_the_farthest_scan_is_first_where_all_are_equally_uncertain():
    picks = pick_scans({"uncertainty": np.zeros(3)}, np.array([[1.0], [9.0], [4.0]]), np.zeros((1, 1)), 1)
    assert order(picks) == [1]


def test_near_duplicates_are_not_picked_together():
    features = np.array([[10.0, 0], [10.01, 0], [0, 8.0], [0.1, 0]])
    picks = pick_scans({}, features, np.zeros((1, 2)), 3)
    assert set(order(picks)[:2]) in ({0, 2}, {1, 2})
    assert order(picks)[2] == 3


def test_the_first_pick_without_any_label_is_the_most_typical_scan():
    picks = pick_scans({}, np.array([[0.0], [5.0], [4.6], [9.0]]), NOTHING, 2)
    assert order(picks)[0] == 2  # nearest to the mean
    assert picks[0].distance is None
    assert order(picks)[1] == 0
    assert picks[1].distance > 0


def test_parts_are_averaged_by_rank_whatever_their_scale():
    parts = {"uncertainty": np.array([0.0, 0.001, 0.002]), "disagreement": np.array([0.0, 1000.0, 500.0])}
    picks = pick_scans(parts, np.array([[0.0], [1.0], [2.0]]), np.zeros((1, 1)), 3)
    assert order(picks)[0] == 2
    assert picks[0].score == pytest.approx((1 + 0.5 + 1) / 3)


def test_no_more_scans_are_picked_than_there_are():
    assert len(pick_scans({}, np.zeros((2, 1)), NOTHING, 5)) == 2


def test_features_are_measured_in_standard_deviations_and_constant_ones_count_for_nothing():
    scaled, known = standardised(np.array([[0.0, 7], [2.0, 7]]), np.array([[1.0, 7]]))
    assert scaled[:, 1].tolist() == [0, 0]
    assert known.tolist() == [[0, 0]]
    assert np.concatenate([scaled, known])[:, 0].std() == pytest.approx(1)
