"""Contours become pixels: points on the path belong to the region, whatever rounding does to them."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.measure import find_contours

from medsam_adapt.data.volumes.contour_fill import Contour, fill, is_doubled

SHAPE = (40, 44)
SPACING = 0.68359375  # 350 mm / 512


def rectangle(low, high, left, right):
    return np.array([(low, left), (high, left), (high, right), (low, right)], float)


def filled(*outlines, exclusive=False, doubled=False):
    return fill([Contour(np.asarray(points, float), SHAPE, exclusive) for points in outlines], doubled)


def masks():
    random = np.random.default_rng(0)
    for index in range(6):
        yield random.random(SHAPE) < 0.15 + 0.12 * index
        yield gaussian_filter(random.standard_normal(SHAPE), 1.5) > 0
        yield random.random(SHAPE) < 0.01  # single voxels


@pytest.mark.parametrize("decimals", [2, 3, 12])
def test_a_square_through_pixel_centres_has_100_pixels_wherever_it_lies(decimals):
    for offset in np.random.default_rng(0).uniform(-300, 300, 40):
        millimetres = np.round(rectangle(3, 12, 4, 13) * SPACING + offset, decimals)
        region = filled((millimetres - offset) / SPACING)
        assert region.sum() == 100
        assert region[3:13, 4:14].all()


@pytest.mark.parametrize("exclusive", [False, True])
def test_contours_between_the_centres_give_their_mask_again(exclusive):
    for mask in masks():
        lines = [line[:-1] - 1 for line in find_contours(np.pad(mask, 1).astype(np.uint8), 0.6)]
        np.testing.assert_array_equal(filled(*lines, exclusive=exclusive) if lines else mask, mask)


@pytest.mark.parametrize("mode", [cv2.CHAIN_APPROX_NONE, cv2.CHAIN_APPROX_SIMPLE])
def test_contours_that_opencv_traces_through_the_centres_give_their_mask_again(mode):
    for mask in masks():
        lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, mode)
        np.testing.assert_array_equal(filled(*(line[:, 0, ::-1] for line in lines)), mask)


def test_direction_first_point_and_a_repeated_last_point_do_not_matter():
    outline = rectangle(3, 12, 4, 13) * 0.9 + [(0, 0), (1, 0), (1, 1), (0.3, 2)]
    expected = filled(outline)
    assert expected.any()
    for other in (outline[::-1], np.roll(outline, 3, axis=0), np.vstack([outline, outline[:1]])):
        np.testing.assert_array_equal(filled(other), expected)


def test_copies_count_once_also_rounded_thinned_out_or_reversed():
    circle = 15 + 8.3 * np.stack([np.cos(a := np.linspace(0, 2 * np.pi, 90)[:-1]), np.sin(a)], axis=1)
    expected = filled(circle)
    for copy in (circle, np.round(circle, 1), circle[::2], np.roll(circle, 7, axis=0)):
        np.testing.assert_array_equal(filled(circle, copy), expected)
    assert is_doubled([Contour(circle, SHAPE), Contour(circle[::-1], SHAPE)])
    np.testing.assert_array_equal(filled(circle, circle[::-1], doubled=True), expected)
    np.testing.assert_array_equal(filled(circle, circle, exclusive=True), expected)
    assert not is_doubled([Contour(circle, SHAPE), Contour(circle + 1, SHAPE)])


def test_a_hole_an_island_in_it_and_a_hole_in_that():
    rings = [rectangle(2.5 + d, 30.5 - d, 2.5 + d, 30.5 - d) for d in (0, 4, 8, 12)]
    expected = np.zeros(SHAPE, bool)
    for depth, size in enumerate((0, 4, 8, 12)):
        expected[3 + size : 31 - size, 3 + size : 31 - size] = depth % 2 == 0
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
        np.testing.assert_array_equal(filled(*(rings[index] for index in order)), expected)
        np.testing.assert_array_equal(filled(*(rings[index] for index in order), exclusive=True), expected)


def test_the_path_of_a_hole_belongs_to_the_region_unless_the_file_says_exclusive():
    outer, inner = rectangle(2, 10, 2, 12), rectangle(4, 8, 4, 8)
    assert filled(outer, inner).sum() == 99 - 9
    assert filled(outer, inner, exclusive=True).sum() == 99 - 25


def test_pieces_that_overlap_or_touch_are_joined():
    one, two = rectangle(0, 10, 0, 10), rectangle(5, 15, 5, 15)
    assert filled(one, two).sum() == 2 * 121 - 36
    assert filled(one, rectangle(10, 20, 0, 10)).sum() == 21 * 11
    hole = rectangle(6.5, 8.5, 6.5, 8.5)  # in both
    assert filled(one, two, hole).sum() == 2 * 121 - 36 - 4
    small = rectangle(9.6, 12.4, 2, 3)  # more outside than inside, and no hole
    assert filled(one, small).sum() == 121 + 4


def test_a_keyhole_contour_cuts_its_hole():
    outer = [(2.5, 2.5), (2.5, 20.5), (20.5, 20.5), (20.5, 2.5), (10.5, 2.5)]
    inner = [(10.5, 6.5), (15.5, 6.5), (15.5, 12.5), (6.5, 12.5), (6.5, 6.5), (10.5, 6.5)]
    region = filled([*outer, *inner, (10.5, 2.5)])
    expected = np.zeros(SHAPE, bool)
    expected[3:21, 3:21] = True
    expected[7:16, 7:13] = False
    np.testing.assert_array_equal(region, expected)


def test_one_point_and_a_line_are_the_pixels_that_they_run_through():
    assert np.argwhere(filled([(3, 4)])).tolist() == [[3, 4]]
    assert np.argwhere(filled([(3, 4), (3, 7)])).tolist() == [[3, 4], [3, 5], [3, 6], [3, 7]]
    assert np.argwhere(filled([(3, 4), (5, 6)])).tolist() == [[3, 4], [4, 5], [5, 6]]


def test_what_lies_outside_the_slice_is_cut_off():
    assert filled(rectangle(-5, 2, -5, 3)).sum() == 12
    assert filled(rectangle(-50, 90, -50, 90)).all()
    assert not filled(rectangle(50, 60, 2, 8)).any()
