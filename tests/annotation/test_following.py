"""From the slices with a box to the others, with a model that draws the box itself."""

import numpy as np

from medsam_adapt.annotation.following import SLACK, follow
from medsam_adapt.data.prompts.simulated import SlicePrompt


def filled(box, side=40):
    mask = np.zeros((side, side), bool)
    x0, y0, x1, y1 = (round(value) for value in box)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


def boxes(**sides):
    return {int(index.removeprefix("s")): SlicePrompt(box=box) for index, box in sides.items()}


def test_between_two_boxes_the_box_moves_evenly():
    keys = boxes(s2=(0, 0, 10, 10), s6=(8, 8, 18, 26))
    found = dict(follow(lambda index, prompt: filled(prompt.box), keys, range(2, 7)))
    assert sorted(found) == [3, 4, 5]
    np.testing.assert_array_equal(found[4], filled((4 - 10 * SLACK, 4 - 14 * SLACK, 14 + 10 * SLACK, 18 + 14 * SLACK)))


def test_beyond_the_boxes_the_mask_is_followed_until_it_vanishes():
    def draw(index, prompt):
        return filled(prompt.box) if 1 <= index <= 7 else np.zeros((40, 40), bool)

    found = dict(follow(draw, boxes(s4=(5, 5, 20, 20)), range(12)))
    assert sorted(found) == [1, 2, 3, 5, 6, 7]
    np.testing.assert_array_equal(found[6], filled((5, 5, 20, 20)))


def test_a_mask_that_jumps_in_size_or_place_ends_it():
    def jumps(index, prompt):
        return filled((0, 0, 39, 39)) if index == 6 else filled((5, 5, 14, 14))

    def moves(index, prompt):
        return filled((25, 25, 34, 34)) if index == 6 else filled((5, 5, 14, 14))

    for draw in (jumps, moves):
        assert sorted(dict(follow(draw, boxes(s4=(5, 5, 14, 14)), range(3, 9)))) == [3, 5]


def test_slices_out_of_reach_stay_as_they_are():
    keys = boxes(s2=(5, 5, 20, 20), s8=(5, 5, 20, 20))
    found = dict(follow(lambda index, prompt: filled(prompt.box), keys, range(6, 10)))
    assert sorted(found) == [6, 7, 9]


def test_the_structure_is_not_followed_behind_an_empty_slice():
    found = dict(follow(lambda index, prompt: filled(prompt.box), boxes(s4=(5, 5, 20, 20)), range(10), {2, 7}))
    assert sorted(found) == [3, 5, 6]
