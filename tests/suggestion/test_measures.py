import numpy as np
import pytest

from medsam_adapt.suggestion.measures import disagreement, mean_entropy


def test_the_entropy_is_that_of_the_foreground_and_two_voxels_around_it():
    foreground = np.zeros((9, 9, 9), bool)
    foreground[4, 4, 4] = True
    uncertainty = np.zeros((9, 9, 9), np.uint8)
    uncertainty[4, 4, 4] = 255  # the voxel itself
    uncertainty[4, 4, 6] = 255  # two steps away
    uncertainty[4, 4, 7] = 255  # three: not looked at
    within_two_steps = 25  # 1 + 6 + 18 voxels
    assert mean_entropy(uncertainty, foreground) == pytest.approx(2 / within_two_steps)


def test_a_larger_background_changes_nothing():
    foreground = np.zeros((9, 9, 9), bool)
    foreground[3:6, 3:6, 3:6] = True
    uncertainty = np.where(foreground, 51, 0).astype(np.uint8)
    wide = [np.pad(array, 20) for array in (uncertainty, foreground)]
    assert mean_entropy(*wide) == mean_entropy(uncertainty, foreground)


def test_where_nothing_was_found_the_most_uncertain_hundredth_counts():
    uncertainty = np.zeros((10, 10, 10), np.uint8)
    uncertainty[0, 0, :] = 102
    assert mean_entropy(uncertainty, np.zeros((10, 10, 10), bool)) == pytest.approx(0.4)


def test_disagreement_is_one_minus_the_mean_dsc_of_pairs_and_classes():
    whole, half, none = np.ones(4, bool), np.array([1, 1, 0, 0], bool), np.zeros(4, bool)
    assert disagreement([[whole], [whole]]) == 0
    assert disagreement([[whole], [half]]) == pytest.approx(1 - 4 / 6)
    assert disagreement([[whole, none], [half, none]]) == pytest.approx(1 - 4 / 6)  # a class that nobody found
    assert disagreement([[whole], [half], [none]]) == pytest.approx((2 / 6 + 1 + 1) / 3)
    assert disagreement([[none], [none]]) == 0
    assert disagreement([[whole]]) is None
