"""Points that correct a mask."""

import numpy as np

from medsam_adapt.annotation.clicks import apply_points

BOX = (0, 0, 39, 39)


def slice_of_two_tissues():
    grey = np.full((40, 40), 60.0)
    grey[:, 20:] = 180.0
    return grey


def test_a_point_inside_adds_the_tissue_around_it_and_no_other():
    logits = np.full((40, 40), -3.0)
    found = apply_points(logits, slice_of_two_tissues(), [(18, 20, True)], BOX) > 0
    assert found[20, 18]
    assert found[22, 17]
    assert not found[:, 20:].any()
    assert not found[20, 2]


def test_a_point_outside_removes_tissue():
    logits = np.full((40, 40), 3.0)
    found = apply_points(logits, slice_of_two_tissues(), [(22, 20, False)], BOX) > 0
    assert not found[20, 22]
    assert found[:, :20].all()


def test_a_point_that_agrees_changes_nothing():
    logits = np.linspace(-3, 3, 1600).reshape(40, 40)
    points = [(5, 2, False), (30, 38, True)]
    np.testing.assert_array_equal(apply_points(logits, slice_of_two_tissues(), points, BOX), logits.astype(np.float32))
