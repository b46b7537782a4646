import numpy as np
import pytest
from matplotlib.path import Path

from medsam_adapt.evaluation.contours import outline, path_data, points_of


def filled(outlines, shape):
    """The mask of pixel centres inside the outlines, by the even-odd rule."""
    rows, columns = np.indices(shape) + 0.5
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    inside = np.zeros(len(centres), dtype=int)
    for points in points_of(outlines):
        inside += Path(points).contains_points(centres)
    return (inside % 2 == 1).reshape(shape)


@pytest.mark.parametrize("seed", range(5))
def test_outlines_hold_exactly_the_mask(seed):
    mask = np.random.default_rng(seed).random((11, 8)) > 0.6
    assert (filled(outline(mask), mask.shape) == mask).all()


def test_outlines_have_holes_and_close_at_the_border():
    mask = np.ones((7, 9), bool)
    mask[3, 4] = False
    lines = points_of(outline(mask))
    assert len(lines) == 2
    assert all((points[0] == points[-1]).all() for points in lines)
    assert (filled(outline(mask), mask.shape) == mask).all()


def test_one_pixel_is_a_diamond_around_its_centre():
    mask = np.zeros((5, 6), bool)
    mask[2, 3] = True
    (points,) = points_of(outline(mask))
    assert sorted(map(tuple, points[:-1])) == [(3.0, 2.5), (3.5, 2.0), (3.5, 3.0), (4.0, 2.5)]
    assert path_data(outline(mask)).startswith("M")
    assert outline(np.zeros((5, 6), bool)) == ""
