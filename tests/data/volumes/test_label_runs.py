"""Boxes and pieces by runs against those of scipy.ndimage, which looks at every voxel."""

import numpy as np
import pytest
from scipy import ndimage

from medsam_adapt.data.volumes import label_runs
from medsam_adapt.data.volumes.label_runs import bounding_boxes, sizes_by_runs


def volumes(count):
    """Labels from 0 to 4 of any density, shape and order in memory."""
    random = np.random.default_rng(0)
    for _ in range(count):
        shape = random.integers(1, 13, 3)
        labels = (random.random(shape) < random.choice([0.02, 0.1, 0.3])) * random.integers(1, 5, shape)
        turned = labels.astype(random.choice([np.uint8, np.uint16])).transpose(random.permutation(3))
        yield turned[tuple(slice(None, None, int(step)) for step in random.choice([-1, 1], 3))]


@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_boxes_are_those_of_scipy(monkeypatch, at_once):
    monkeypatch.setattr(label_runs, "_AT_ONCE", at_once)
    for labels in volumes(100):
        expected = {label: box for label, box in enumerate(ndimage.find_objects(labels, 9), start=1) if box is not None}
        wanted = [3, 1, 2, 4, 9]
        assert bounding_boxes(labels, wanted) == {label: expected[label] for label in wanted if label in expected}


def test_pieces_are_those_of_scipy(monkeypatch):
    monkeypatch.setattr(label_runs, "_MOST_RUNS", 1)
    for labels in volumes(200):
        numbered, _ = ndimage.label(labels == 1, np.ones((3, 3, 3)))
        sizes = sizes_by_runs(labels == 1)
        assert sizes is not None
        np.testing.assert_array_equal(np.sort(sizes), np.sort(np.bincount(numbered.ravel())[1:]))


def test_noise_has_too_many_runs():
    noise = np.random.default_rng(0).random((16, 16, 16)) < 0.5
    assert sizes_by_runs(noise) is None


def test_nothing_has_no_box_and_no_piece():
    nothing = np.zeros((3, 0, 2), np.uint8)
    assert bounding_boxes(nothing, [1]) == {}
    assert bounding_boxes(np.ones((2, 2, 2), np.uint8), []) == {}
    sizes = sizes_by_runs(nothing == 1)
    assert sizes is not None
    assert sizes.tolist() == []
