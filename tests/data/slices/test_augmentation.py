"""What augmentation may and may not do to a slice, and that its label follows."""

import numpy as np
import pytest

from medsam_adapt.data.slices.geometry import slice_coordinates
from medsam_adapt.data.slices.transforms import training_transforms

SIZE = 64


class Stored:
    """One slice: a bright square in the upper left quarter, a dim field around it."""

    table = None
    unannotated = ()

    def __init__(self):
        self.images = np.full((1, SIZE, SIZE), 60, np.uint8)
        self.images[0, 10:22, 8:24] = 200
        self.labels = (self.images == 200).astype(np.uint8)

    def channels(self, index, channels):
        return self.images[[0, 0, 0]]


def samples(augment, count=60):
    transform = training_transforms({"a": Stored()}, SIZE, augment=augment)
    for seed in range(count):
        transform.set_random_state(seed=seed)
        sample = transform({"case": "a", "slice": 0})
        yield sample["image"].numpy(), sample["label"].numpy()[0]


@pytest.mark.parametrize("augment", ["anatomical", "strong"])
def test_coordinates_move_with_the_image(augment):
    """They are those of where a pixel comes from, but for a shift and a scale that are drawn for the whole sample."""

    class Located(Stored):
        def coordinates(self, index):
            return slice_coordinates("axial", index, 5, SIZE, SIZE)

    transform = training_transforms({"a": Located()}, SIZE, augment=augment, positions=True, coordinates=True)
    lines = []
    for seed in range(20):
        transform.set_random_state(seed=seed)
        sample = transform({"case": "a", "slice": 0})
        inside = sample["position"][2] == 1
        column, row = (sample["position"][index][inside].numpy() for index in (0, 1))
        right, anterior, superior = (each[inside].numpy() for each in sample["image"][3:])
        for place, coordinate in ((column, right), (row, anterior)):
            slope, start = np.polyfit(place, coordinate, 1)
            np.testing.assert_allclose(coordinate, slope * place + start, atol=1e-3)
            lines.append((slope * -SIZE / 2, start))  # patient right and anterior come first
        np.testing.assert_allclose(superior, superior[0], atol=1e-5)
    slopes, starts = np.transpose(lines)
    assert (abs(slopes - 1) <= 0.2001).all()
    assert slopes.std() > 0.04
    assert (abs(starts - 1) <= 0.4001).all()
    assert starts.std() > 0.04


def quarter(label):
    """Which quarter the structure's centre lies in: (lower?, right?)."""
    rows, columns = np.nonzero(label)
    return bool(rows.mean() > SIZE / 2), bool(columns.mean() > SIZE / 2)


def test_none_changes_nothing():
    plain = Stored()
    for image, label in samples("none", 3):
        np.testing.assert_array_equal(image, plain.images[[0, 0, 0]])
        np.testing.assert_array_equal(label, plain.labels[0])


@pytest.mark.parametrize(("augment", "quarters"), [("anatomical", 1), ("free", 4)])
def test_only_images_without_a_side_are_mirrored_and_turned(augment, quarters):
    assert len({quarter(label) for _, label in samples(augment)}) == quarters


@pytest.mark.parametrize("augment", ["anatomical", "free"])
def test_the_label_follows_the_image(augment):
    for image, label in samples(augment):
        bright = image[0] > 0.5 * (image[0][label == 1].mean() + np.median(image[0]))
        assert 2 * (bright & (label == 1)).sum() / (bright.sum() + label.sum()) > 0.85


def test_shape_brightness_contrast_and_noise_all_vary():
    found = [(image[0], label) for image, label in samples("anatomical")]
    field = [image[45:60, 20:45] for image, _ in found]  # inside whatever is rotated or shifted
    areas = [int(label.sum()) for _, label in found]
    assert min(areas) < 0.9 * 192 < 1.1 * 192 < max(areas)  # zoomed
    noisy = [part.std() > 3 for part in field]
    assert 0.1 < np.mean(noisy) < 0.6
    levels = np.array([part.mean() for part in field])
    assert levels.min() < 57
    assert levels.max() > 63
    structure = np.array([image[label == 1].mean() for image, label in found])
    ratio = structure / levels
    assert ratio.max() - ratio.min() > 0.2  # gamma: the dim field changes otherwise than the bright structure


class StoredSet(Stored):
    """Images of one case, all of them alike, as the network's channels: of two the third is their mean."""

    def __init__(self, images):
        super().__init__()
        self.count = max(images, 3)

    def channels(self, index, channels):
        return self.images[[0] * self.count]


@pytest.mark.parametrize("augment", ["anatomical", "strong", "free"])
@pytest.mark.parametrize("images", [2, 3, 4])
def test_grey_levels_of_each_image_of_a_case_change_by_themselves_and_their_place_alike(augment, images):
    transform = training_transforms({"a": StoredSet(images)}, SIZE, augment=augment, image_count=images)
    bias, places = [], []
    for seed in range(20):
        transform.set_random_state(seed=seed)
        sample = transform({"case": "a", "slice": 0})
        found, inside = sample["image"].numpy(), sample["label"].numpy()[0] == 1
        assert len(found) == max(images, 3)
        if images == 2:
            np.testing.assert_allclose(found[2], (found[0] + found[1]) / 2, atol=1e-4)
        bias.append(np.abs(found[0][inside].mean() - found[1][inside].mean()))
        bright = [image > 0.5 * (image[inside].mean() + np.median(image)) for image in found[:images]]
        places.append(min(2 * (each & inside).sum() / (each.sum() + inside.sum()) for each in bright))
    assert np.median(places) > 0.85
    assert 0.2 < np.mean(np.array(bias) > 2) < 1  # some are left alone by chance
    transform.set_random_state(seed=3)
    again = transform({"case": "a", "slice": 0})["image"]
    transform.set_random_state(seed=3)
    assert (again == transform({"case": "a", "slice": 0})["image"]).all()


def test_the_colours_of_one_image_change_together():
    levels = [image[:, 45:60, 20:45].mean(axis=(1, 2)) for image, _ in samples("anatomical", 20)]
    assert np.abs(np.diff(levels, axis=1)).max() < 2
