import numpy as np
import pytest
from scipy import ndimage

from medsam_adapt.data.prompts.simulated import (
    BOX_JITTER,
    BOX_SLACK,
    MAX_POINTS,
    exact_prompt,
    jittered_box,
    points_inside,
    simulate_prompt,
    tight_box,
)

EMPTY = np.zeros((40, 60), bool)
MASK = EMPTY.copy()
MASK[10:21, 30:34] = True
MASK[12, 34:50] = True  # one pixel thin: erosion takes it away


def state(seed=0):
    return np.random.RandomState(seed)


def test_a_tight_box_names_the_first_and_last_column_and_row():
    assert tight_box(MASK).tolist() == [30, 10, 49, 20]
    assert tight_box(np.ones((3, 4), bool)).tolist() == [0, 0, 3, 2]
    assert tight_box(EMPTY) is None


@pytest.mark.parametrize("size", [64, 256, 512])
def test_a_jittered_box_holds_the_structure_and_stays_in_the_slice(size):
    boxes = np.array([jittered_box(MASK, size, state(seed)) for seed in range(300)])
    growth = (boxes - tight_box(MASK)) * (-1, -1, 1, 1)
    free = np.array([30, 10, 59 - 49, 39 - 20])  # pixels between the structure and each border
    limit = np.minimum(BOX_JITTER * size / 256, free)
    assert boxes.dtype == np.float32
    assert (growth >= 0).all()
    assert (growth <= limit + 1e-4).all()
    assert (growth.max(axis=0) > 0.9 * limit).all()  # every side is drawn up to its limit
    assert len(np.unique(growth[:, 0].round(3))) > 200


def test_a_training_box_grows_with_its_structure():
    boxes = np.array([simulate_prompt(MASK, "box", 256, state(seed))["boxes"] for seed in range(300)])
    growth = (boxes - tight_box(MASK)) * (-1, -1, 1, 1)
    limit = BOX_SLACK * np.array([20, 11, 20, 11])  # its width and height
    assert (growth >= 0).all()
    assert (growth <= limit + 1e-4).all()
    assert (growth.max(axis=0) > 0.9 * limit).all()


def test_a_prompt_for_nothing_is_the_whole_slice_or_no_point():
    assert jittered_box(EMPTY, 64, state()).tolist() == [0, 0, 59, 39]
    assert points_inside(EMPTY, 3, state()).tolist() == [[0, 0, -1]] * 3


def test_points_lie_inside_the_eroded_mask():
    inside = ndimage.binary_erosion(MASK)
    drawn = np.concatenate([points_inside(MASK, 8, state(seed)) for seed in range(50)])
    assert (drawn[:, 2] == 1).all()
    hit = np.zeros_like(MASK)
    hit[drawn[:, 1].astype(int), drawn[:, 0].astype(int)] = True
    np.testing.assert_array_equal(hit, inside)  # all of it, and nothing else


def test_points_of_a_mask_too_thin_to_erode_lie_in_the_mask():
    thin = EMPTY.copy()
    thin[5, 7:9] = True
    assert {(x, y) for x, y, _ in points_inside(thin, 50, state()).tolist()} == {(7, 5), (8, 5)}


@pytest.mark.parametrize("mode", ["box", "points"])
def test_a_prompt_is_decided_by_its_random_state(mode):
    (name,) = simulate_prompt(MASK, mode, 64, state(3))
    one, same, other = (simulate_prompt(MASK, mode, 64, state(seed))[name] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_one_to_all_points_are_used_and_the_rest_is_padding():
    used = set()
    for seed in range(100):
        points = simulate_prompt(MASK, "points", 64, state(seed))["points"]
        assert points.shape == (MAX_POINTS, 3)
        count = int((points[:, 2] == 1).sum())
        assert (points[count:] == (0, 0, -1)).all()
        used.add(count)
    assert used == set(range(1, MAX_POINTS + 1))


def test_no_prompt_is_no_argument():
    assert simulate_prompt(MASK, "none", 64, state()) == {}


def test_exact_prompts_are_the_tight_box_and_the_deepest_point():
    assert exact_prompt(MASK, "box")["boxes"].tolist() == [30, 10, 49, 20]
    square = EMPTY.copy()
    square[5:10, 20:25] = True
    assert exact_prompt(square, "points")["points"].tolist() == [[22, 7, 1]]
    at_the_border = EMPTY.copy()
    at_the_border[:5, :5] = True  # the border of the slice is a border of the structure
    assert exact_prompt(at_the_border, "points")["points"].tolist() == [[2, 2, 1]]
