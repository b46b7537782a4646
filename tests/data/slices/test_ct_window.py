"""The window of a CT shows the structures that are learned."""

import numpy as np
import pytest

from medsam_adapt.data.slices.ct_window import visible_window

TABLE = np.array([[0, 0], [1, 0], [0, 1]])


def volume(around, inside, size=6):
    """A slice with two discs of class 1, and one pixel of class 2, too small to decide."""
    slices, parts = np.full((2, 40, 40), float(around)), np.zeros((2, 40, 40), np.uint8)
    parts[0, 5 : 5 + size, 5:15] = 1
    slices[parts == 1] = inside
    parts[1, 30, 30] = 2
    return slices, parts, TABLE


@pytest.mark.parametrize(
    ("around", "inside", "window"),
    [
        (40, 100, (-160, 240)),
        (40, -850, (-160, 240)),  # a lung: black in grey
        (-850, 30, (-160, 240)),  # a nodule in a lung
        (-850, -480, (-850, 240)),  # an opacity in a lung: black in black
        (-870, -480, (-900, 240)),
        (500, 900, (-160, 900)),  # a tooth in a jaw
        (600, -600, (-160, 240)),
    ],
)
def test_a_structure_that_the_window_hides_widens_it(around, inside, window):
    assert visible_window([volume(40, 100), volume(around, inside)], -160, 240) == window


def test_half_of_a_class_decides_and_few_pixels_do_not():
    opacity = volume(-850, -480)
    opacity[0][0, 5:9, 5:15] = 20  # most of it is consolidated
    assert visible_window([opacity], -160, 240) == (-160, 240)
    assert visible_window([volume(-850, -480, size=1)], -160, 240) == (-160, 240)
    assert visible_window([], -160, 240) == (-160, 240)
