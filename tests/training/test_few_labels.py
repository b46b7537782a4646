"""What makes few labels go further: image size from the data, averaged weights, strong augmentation, time budgets."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from medsam_adapt.data.datasets.splits import split_cases
from medsam_adapt.data.slices.augmentation import strong_augmentation
from medsam_adapt.data.slices.geometry import SlicePlan, acquired_axis, fitting_size, suit_tiles, suits_three_planes
from medsam_adapt.data.slices.sampling import SliceDataset, slice_loader
from medsam_adapt.data.slices.transforms import CropTiled
from medsam_adapt.data.volumes.io import VolumeHeader
from medsam_adapt.training.average import AverageWeights


def header(shape, spacing):
    return VolumeHeader(Path("scan.nii.gz"), shape=shape, affine=np.diag([*spacing, 1.0]))


@pytest.mark.parametrize(
    ("shape", "spacing", "axis", "size"),
    [
        ((35, 50, 30), (1, 1, 1), "axial", 64),
        ((96, 81, 30), (1, 1, 1), "axial", 96),
        ((97, 81, 30), (1, 1, 1), "axial", 112),
        ((512, 512, 90), (0.8, 0.8, 5), "axial", 128),
        ((60, 40, 20), (1, 1, 5), "coronal", 112),  # 100 mm high, pixels of 1 mm
    ],
)
def test_the_image_size_is_that_of_the_finest_pixels_within_bounds(shape, spacing, axis, size):
    assert fitting_size([header((20, 20, 4), (1, 1, 1)), header(shape, spacing)], axis) == size


@pytest.mark.parametrize(
    ("shape", "spacing", "suits"),
    [
        ((40, 50, 30), (1, 1, 1), True),
        ((40, 50, 30), (1, 1.5, 1), True),
        ((40, 50, 30), (1, 1, 1.7), False),
        ((40, 50, 15), (1, 1, 1), False),
        ((256, 256, 1), (1, 1, 1), False),
    ],
)
def test_volumes_of_even_voxels_suit_three_planes(shape, spacing, suits):
    assert suits_three_planes([header((40, 40, 40), (1, 1, 1)), header(shape, spacing)]) == suits


@pytest.mark.parametrize(
    ("spacings", "axis"),
    [
        ([(1, 1, 1)], "axial"),
        ([(0.5, 0.5, 3)], "axial"),
        ([(3, 0.5, 0.5), (2, 0.6, 0.7)], "sagittal"),
        ([(0.5, 3, 0.5)], "coronal"),
        ([(1.5, 1, 1)], "axial"),  # hardly longer
        ([(3, 0.5, 0.5), (0.5, 0.5, 3)], "axial"),  # as many of the one as of the other
        ([(3, 0.5, 0.5), (1, 1, 1), (3, 0.5, 0.5)], "sagittal"),  # one patient does not decide
        ([(3, 0.5, 0.5), (1, 1, 1), (1, 1, 1)], "axial"),
        ([(3, 3, 1)], "axial"),  # the direction of the slices is not known
    ],
)
def test_slices_lie_as_most_volumes_were_acquired(spacings, axis):
    assert acquired_axis([header((20, 30, 40), spacing) for spacing in spacings]) == axis


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((30, 40, 1), (3, 1, 1), "axial"),  # the thickness of a single slice is often not known
        ((1, 40, 30), (1, 1, 1), "sagittal"),
        ((1, 40, 30), (1, 1, 5), "sagittal"),
        ((200, 3, 200), (1, 1, 1), "coronal"),
        ((15, 40, 30), (1, 1, 1), "sagittal"),
        ((16, 40, 40), (1, 1, 1), "axial"),
        ((15, 40, 29), (1, 1, 1), "axial"),  # hardly fewer
        ((15, 40, 30), (1, 1, 3), "axial"),  # thick slices in another direction
        ((1, 1, 40), (1, 1, 1), "axial"),  # no direction
    ],
)
def test_few_slices_are_learned_as_such(shape, spacing, axis):
    """Slices across another direction would be a few pixels wide."""
    assert acquired_axis([header(shape, spacing)]) == axis


def test_the_acquired_direction_is_that_of_the_patient_not_of_the_file():
    """A sagittal acquisition whose file stores the slices along its third axis."""
    affine = np.array([[0, 0, 3, 0], [0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 1.0]])
    assert acquired_axis([VolumeHeader(Path("scan.nii.gz"), shape=(40, 40, 12), affine=affine)]) == "sagittal"


@pytest.mark.parametrize(("patients", "held_out"), [(1, 0), (5, 0), (9, 0), (10, 1), (19, 1), (60, 6)])
def test_few_patients_are_all_trained_on(patients, held_out):
    cases = [SimpleNamespace(id=f"case{i}", patient_id=f"patient{i}") for i in range(patients)]
    split = split_cases(cases, seed=0, held_out_fraction=None)
    assert (len(split.train), len(split.held_out)) == (patients - held_out, held_out)


@pytest.mark.parametrize("weights", [None, np.full(40, 1 / 40)])
def test_an_epoch_has_at_most_max_steps(weights):
    dataset = SliceDataset([{"n": index} for index in range(40)], Plain(), weights)
    loader = slice_loader(dataset, 2, max_steps=5)
    epochs = [[int(n) for batch in loader for n in batch["n"]] for _ in range(2)]
    assert [len(epoch) for epoch in epochs] == [10, 10]
    assert epochs[0] != epochs[1]


class Plain:
    def __call__(self, sample):
        return sample

    def set_random_state(self, seed):
        del seed


def test_strong_augmentation_is_decided_by_its_seed_and_keeps_labels():
    slice_ = {"image": torch.rand(3, 40, 56) * 255, "label": torch.randint(0, 4, (1, 40, 56))}
    transform = strong_augmentation(64)

    def drawn(seed):
        transform.set_random_state(seed)
        return transform(dict(slice_))

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(torch.as_tensor(first["image"]), torch.as_tensor(again["image"]))
    assert not torch.equal(torch.as_tensor(first["image"]), torch.as_tensor(other["image"]))
    samples = [drawn(seed) for seed in range(12)]
    assert {tuple(sample["image"].shape) for sample in samples} == {(3, 40, 56)}
    assert all(set(np.unique(sample["label"])) <= {0, 1, 2, 3} for sample in samples)


def test_image_and_label_move_together():
    disc = ((torch.arange(64)[:, None] - 30) ** 2 + (torch.arange(64) - 36) ** 2 < 150).long()
    transform = strong_augmentation(64)
    for seed in range(20):
        transform.set_random_state(seed)
        moved = transform({"image": 40 + 160.0 * disc.expand(3, -1, -1), "label": disc[None]})
        image, label = (np.asarray(moved[name])[0] for name in ("image", "label"))
        assert label.sum() > 0
        assert image[label == 1].mean() > 1.5 * image[label == 0].mean()


@pytest.mark.parametrize(
    ("sides", "suit"),
    [((28, 28, 40), True), ((28, 28, 50), False), ((28, 40, 40), False), ((28, 0, 40), False), ((0,), False)],
)
def test_one_patient_does_not_decide_about_tiles(sides, suit):
    """The longest structure of the median patient does, unless some patient's fills a tile."""
    plan = SlicePlan((128, 128), (128, 128), 128)

    def labels():
        for side in sides:
            slices = np.zeros((3, 128, 128), np.uint8)
            slices[1, 40:44, 60 : 60 + side] = 1
            yield slices, np.array([[0], [1]]), plan

    assert suit_tiles(labels(), 128) == suit


def test_tiles_are_inside_and_most_of_them_show_a_class():
    label = torch.zeros(1, 100, 80, dtype=torch.int64)
    label[:, 90:95, 3:8] = 2
    place = torch.arange(100 * 80).reshape(1, 100, 80).float()
    crop, shown, corners = CropTiled(64), 0, set()
    for seed in range(60):
        crop.set_random_state(seed)
        tile = crop({"image": place.expand(3, -1, -1), "label": label})
        assert tile["image"].shape == (3, 64, 64)
        row, column = divmod(int(tile["image"][0, 0, 0]), 80)
        assert torch.equal(tile["label"], label[:, row : row + 64, column : column + 64])
        shown += bool(tile["label"].any())
        corners.add((row, column))
    assert shown > 30
    assert len(corners) > 20
    small = {"label": label[:, :64, :50]}
    assert torch.equal(crop(small)["label"], small["label"])


def test_averaged_weights_follow_the_formula_and_swap():
    network = nn.Linear(1, 1, bias=False)
    average, expected = AverageWeights(network, keep=0.9), None
    for step in range(1, 40):
        with torch.no_grad():
            network.weight.fill_(float(step))
        keep = min(0.9, (1 + step) / (10 + step))
        expected = float(step) if expected is None else keep * expected + (1 - keep) * step
        average.update()
    with average.applied():
        assert network.weight.item() == pytest.approx(expected, rel=1e-5)
    assert network.weight.item() == 39.0


def test_averaged_weights_resume():
    network = nn.Linear(3, 2)
    average = AverageWeights(network, keep=0.9)
    average.update()
    resumed = AverageWeights(network, keep=0.9)
    resumed.load_state_dict(average.state_dict())
    for each in (average, resumed):
        each.update()
    assert resumed.step == average.step == 2
    with average.applied():
        one = network.weight.clone()
    with resumed.applied():
        assert torch.equal(network.weight, one)
