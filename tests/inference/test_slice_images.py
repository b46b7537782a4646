import numpy as np
import pytest
import torch

from medsam_adapt.data.slices.geometry import SlicePlan, as_tensor, volume_to_slices
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.padding import pad_image
from medsam_adapt.inference.slice_images import SliceImages

SHAPE = (9, 12, 10)  # X, Y, Z
SPACING = (1.0, 2.0, 3.0)
WINDOW = IntensityPolicy(kind="window", low=-100, high=200)


def volume_of(*channels, order="F"):
    values = np.random.default_rng(0).uniform(-300, 300, (*SHAPE, *channels))
    return np.asarray(values, np.float32, order=order)


def images_of(volume, axis, window=WINDOW, **settings):
    plan = SlicePlan.of(volume.shape, SPACING, axis, 16)
    return SliceImages(volume_to_slices(volume, axis), plan, window=window, **settings)


def plain(volume, axis, indices, offsets=(0, 0, 0), flip=()):
    """The images one by one, by numpy and the plan."""
    plan = SlicePlan.of(volume.shape, SPACING, axis, 16)
    grey = volume_to_slices(WINDOW.apply(volume), axis)
    images = []
    for index in indices:
        if grey.ndim == 4:
            image = plan.resize_image(as_tensor(grey[[index]]))[0]
        else:
            seen = np.clip(index + np.array(offsets), 0, len(grey) - 1)
            image = torch.cat([plan.resize_image(as_tensor(grey[[place]])) for place in seen])
        images.append(pad_image(image.flip(list(flip)), 16))
    return torch.stack(images)


@pytest.mark.parametrize("loaded", [0, 3, 100])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("offsets", [(0,), (-1, 0, 1)])
def test_images_are_those_made_one_by_one_however_many_are_loaded(axis, offsets, loaded):
    volume = volume_of()
    images = images_of(volume, axis, neighbours=offsets, loaded=loaded)
    count = len(images.voxels)
    three = offsets if len(offsets) == 3 else (0, 0, 0)
    # forwards in batches, backwards one by one, and out of order
    for wanted in ([0, 1, 2], [3, 4, 5], [6, 7, 8], [8], [7], [6], [2], [1], [count - 1], [5, 2, 3], [4, 4]):
        found = images(np.array(wanted))
        assert torch.equal(found, plain(volume, axis, wanted, three))
    found = images(np.arange(4), (-2, -1))
    assert torch.equal(found, plain(volume, axis, range(4), three, (-2, -1)))


@pytest.mark.parametrize("flip", [(), (-1,), (-2, -1)])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_coordinates_are_those_of_the_voxels(axis, flip):
    """A volume that holds its own coordinates; where slices are not resized, they are seen as they are."""
    sides = [(2 * np.arange(count) + 1) / count - 1 for count in SHAPE]
    expected = volume_to_slices(np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1), axis)
    rows, columns = expected.shape[1:3]
    plan = SlicePlan((rows, columns), (rows, columns), 16)
    images = SliceImages(volume_to_slices(volume_of(), axis), plan, window=WINDOW, coordinates=axis)
    for index in (0, 4, 8):
        located = images(np.array([index]), flip)[0, 3:, :rows, :columns].flip(list(flip)).numpy()
        np.testing.assert_allclose(located, np.moveaxis(expected[index], -1, 0), atol=1e-6)
    assert not images(np.array([0]), flip)[0, 3:, rows:].any()


@pytest.mark.parametrize("order", ["C", "F"])
def test_images_in_colour(order):
    volume = volume_of(3, order=order)
    images = images_of(volume, "axial")
    assert torch.equal(images(np.array([2, 3, 7]), (-1,)), plain(volume, "axial", [2, 3, 7], flip=(-1,)))


def test_few_slices_are_loaded_often_and_many_once(monkeypatch):
    for loaded, expected in ((0, 5), (6, 2), (100, 1)):
        images = images_of(volume_of(), "axial", loaded=loaded)
        loads = []
        load = images._load
        monkeypatch.setattr(images, "_load", lambda *range, load=load, loads=loads: loads.append(range) or load(*range))
        for start in range(0, 10, 2):
            images.have_signal(np.arange(start, start + 2))
            images(np.arange(start, start + 2))
        assert len(loads) == expected


@pytest.mark.parametrize("offsets", [(0,), (-1, 0, 1)])
def test_slices_without_signal_are_black(offsets):
    volume = volume_of()
    volume[..., [0, 1, 4, 5, 6]] = -100
    volume[3, 3, 5] = -99.5  # 0.4 of a level
    volume[3, 3, 6] = -99.0
    images = images_of(volume, "axial", neighbours=offsets)
    alone = np.array([False, False, True, True, False, False, True, True, True, True])
    three = alone | np.append(alone[1:], False) | np.insert(alone[:-1], 0, False)
    indices = np.arange(10)
    found = images.have_signal(indices)
    assert found == (alone if offsets == (0,) else three).tolist()
    height, width = images.plan.resized
    assert not images(indices[~np.array(found)])[..., :height, :width].any()


def test_what_is_no_number_is_not_black():
    volume = np.full(SHAPE, -100, np.float32)
    volume[2, 2, 3] = np.nan
    assert images_of(volume, "axial").have_signal(np.arange(10)) == [index == 3 for index in range(10)]


def test_voxels_stay_as_they_are():
    volume = volume_of()
    for window in (WINDOW, None):
        kept = volume.copy()
        images = images_of(volume, "sagittal", window=window)
        images(np.arange(9))
        np.testing.assert_array_equal(volume, kept)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_images_of_a_graphics_card_are_those_of_the_processor(axis):
    volume = volume_of()
    here, there = (images_of(volume, axis, device=torch.device(name)) for name in ("cpu", "cuda"))
    for wanted in ([0, 1, 2], [7], [3]):
        found = there(np.array(wanted))
        assert found.device.type == "cuda"
        assert (found.cpu() - here(np.array(wanted))).abs().max() <= 1  # a level, where a half is rounded
    assert there.have_signal(np.arange(9)) == here.have_signal(np.arange(9))
