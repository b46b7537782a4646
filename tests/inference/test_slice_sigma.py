"""Probabilities averaged over neighbouring slices."""

import numpy as np
import pytest
import torch

from medsam_adapt.bundle.catalogue import resolve_knobs
from medsam_adapt.data.slices.geometry import volume_to_slices
from medsam_adapt.inference.inferer import SlicewiseInferer
from tests.inference.test_inferer import FULL_SIZE, SHAPE, Oracle, label, predictor_of, volume_of  # noqa: F401
from tests.slicing import slicing_of

AXES = list(FULL_SIZE)


class Unsure(Oracle):
    """Logits small enough for a neighbour to matter."""

    def forward(self, images):
        return super().forward(images) * 0.05


def noisy(classes):
    noise = np.random.default_rng(2).normal(0, 0.4, classes.shape)
    return volume_of(np.clip(classes + noise, 0, 3))


def logits_of(classes, axis, head="exclusive", batch_size=4, **changes):
    spec = slicing_of(axis, num_classes=3, **changes)
    inferer = SlicewiseInferer(spec, batch_size, "logits")
    found = inferer(noisy(classes), Unsure(FULL_SIZE[axis], head))[0]
    return torch.from_numpy(
        volume_to_slices(np.moveaxis(np.asarray(found), 0, -1), axis).copy()
    )  # (N, rows, columns, K)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("head", ["exclusive", "overlapping"])
@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_it_is_the_weighted_mean_of_the_slices_probabilities(label, axis, head, sigma):  # noqa: F811
    plain, averaged = (logits_of(label, axis, head, slice_sigma=each) for each in (0.0, sigma))
    activated = torch.sigmoid if head == "overlapping" else (lambda logits: logits.softmax(dim=-1))
    chances, reach = activated(plain), int(np.ceil(2 * sigma))
    for index in range(len(chances)):
        places = [min(max(index + step, 0), len(chances) - 1) for step in range(-reach, reach + 1)]
        weights = np.exp([-(step**2) / (2 * sigma**2) for step in range(-reach, reach + 1)])
        expected = sum(w * chances[place] for w, place in zip(weights / weights.sum(), places, strict=True))
        torch.testing.assert_close(activated(averaged[index]), expected, rtol=0, atol=1e-5)
    assert (activated(averaged) - chances).abs().max() > 0.05


@pytest.mark.parametrize("axis", AXES)
def test_every_slice_is_segmented_once_whatever_the_batches(label, axis):  # noqa: F811
    one, *others = (logits_of(label, axis, batch_size=size, slice_sigma=0.8) for size in (3, 1, 16))
    assert all(torch.allclose(other, one, atol=1e-6) for other in others)
    seen = []

    class Counting(Unsure):
        def forward(self, images):
            seen.append(len(images))
            return super().forward(images)

    inferer = SlicewiseInferer(slicing_of(axis, num_classes=3, slice_sigma=0.8), 2, "labels")
    inferer(noisy(label + 1), Counting(FULL_SIZE[axis]))
    assert sum(seen) == len(one)


@pytest.mark.parametrize("flips", [False, True])
def test_the_predictor_averages_as_the_evaluation(label, flips):  # noqa: F811
    predictor = predictor_of("axial", 16)
    predictor._members = [
        (slicing.model_copy(update={"slice_sigma": 0.8}), Unsure(16)) for slicing, _ in predictor._members
    ]
    image = np.asarray(noisy(label))[0, 0]
    found = predictor(image, np.eye(4), flips=flips)
    expected = SlicewiseInferer(predictor._members[0][0], 4)(noisy(label), Unsure(16))[0, 0]
    # The oracle looks at each pixel alone: what is mirrored and turned back is the same.
    np.testing.assert_array_equal(found, expected)


def test_an_absent_class_stays_out_of_reach(label):  # noqa: F811
    spec = slicing_of(num_classes=3, absent=[2], slice_sigma=0.8)
    logits = SlicewiseInferer(spec, output="logits")(noisy(label), Unsure(16))
    assert not logits.softmax(dim=1)[:, 2].any()


def test_prompts_lie_on_single_slices():
    with pytest.raises(ValueError, match="slice_sigma cannot be"):
        slicing_of(prompt="box", slice_sigma=0.8)


@pytest.mark.parametrize("axis", AXES)
def test_a_lesion_on_a_single_slice_is_drawn(axis):
    """With the sigma of the default bundle; from 0.8 on, a slice has less than half of the weight."""
    classes = np.zeros(SHAPE, np.int64)
    volume_to_slices(classes, axis)[4, 3:6, 4:7] = 2
    sigma = resolve_knobs("detail", "default").slice_sigma
    for given, found in ((sigma, classes), (0.8, classes * 0)):
        inferer = SlicewiseInferer(slicing_of(axis, num_classes=3, slice_sigma=given))
        np.testing.assert_array_equal(inferer(volume_of(classes), Oracle(FULL_SIZE[axis]))[0, 0], found)
