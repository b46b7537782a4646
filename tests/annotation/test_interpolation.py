"""Masks and boxes between drawn slices."""

import numpy as np
import pytest

from medsam_adapt.annotation.interpolation import box_between, fill_between
from medsam_adapt.data.prompts.simulated import SlicePrompt


def disk(radius, side=61):
    y, x = np.mgrid[:side, :side] - side // 2
    return x**2 + y**2 <= radius**2


def test_halfway_between_two_disks_is_the_disk_of_the_mean_radius():
    masks = np.zeros((7, 61, 61), bool)
    masks[1], masks[5] = disk(10), disk(20)
    found = dict(fill_between(masks))
    assert sorted(found) == [2, 3, 4]
    assert abs(np.sqrt(found[3].sum() / np.pi) - 15) < 0.5
    assert found[2].sum() < found[3].sum() < found[4].sum()


def test_nothing_is_drawn_outside_or_between_neighbours():
    masks = np.zeros((6, 61, 61), bool)
    masks[2], masks[3] = disk(10), disk(20)
    assert list(fill_between(masks)) == []


def test_a_box_moves_evenly():
    first, last = SlicePrompt(box=(0, 10, 20, 30)), SlicePrompt(box=(8, 10, 40, 50))
    assert box_between(first, last, 0.25).box == (2, 10, 25, 35)
    assert box_between(first, last, 0.25, slack=0.2).box == pytest.approx((-2.6, 5, 29.6, 40))
