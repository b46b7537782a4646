"""Slices as run lengths."""

import numpy as np
import pytest

from medsam_adapt.annotation.run_lengths import from_run_lengths, to_run_lengths


def test_runs_are_pairs_of_value_and_count():
    assert to_run_lengths(np.array([[0, 0, 2], [2, 2, 1]], np.uint8)) == [0, 2, 2, 3, 1, 1]


def test_a_slice_comes_back_as_it_was():
    values = np.random.default_rng(0).integers(0, 4, (13, 17)).astype(np.uint8)
    np.testing.assert_array_equal(from_run_lengths(to_run_lengths(values), (13, 17), range(4)), values)


@pytest.mark.parametrize(
    "runs", [[], [0], [0, 5], [0, 7], [3, 6], [0, 0, 0, 6], [0, -1, 0, 7], [0, 3, 1], [0, 2**40, 0, 6]]
)
def test_runs_that_do_not_fill_the_slice_with_known_labels_are_refused(runs):
    with pytest.raises(ValueError, match="run lengths"):
        from_run_lengths(runs, (2, 3), [0, 1, 2])
