"""Runs of axial, coronal and sagittal slices segment together, in the volume's own voxels."""

import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.io import from_ras
from medsam_adapt.inference.inferer import SlicewiseInferer
from medsam_adapt.inference.predictor import Predictor
from medsam_adapt.runs.record import read_runs
from tests.data.slices.test_geometry import affine_of
from tests.inference.test_inferer import FULL_SIZE, GREY, Oracle, label, predictor_of, volume_of  # noqa: F401
from tests.made_runs import make_run
from tests.slicing import slicing_of

AXES = list(FULL_SIZE)


def together(axes):
    first, *others = (predictor_of(axis, FULL_SIZE[axis]) for axis in axes)
    return Predictor(first.record, first.segmenter, 4, [(each.record, each.segmenter) for each in others])


@pytest.mark.parametrize("codes", ["RAS", "LPI", "ASL"])
@pytest.mark.parametrize("axes", [AXES, AXES[::-1], ["coronal", "axial"]])
@pytest.mark.parametrize("flips", [False, True])
def test_the_mean_of_the_planes_probabilities_decides(label, codes, axes, flips):  # noqa: F811
    affine = affine_of(codes, (1, 1, 1))
    noise = np.random.default_rng(1).normal(0, 20, label.shape)
    image = from_ras(np.clip(GREY * label + noise, 0, 255), affine)
    alone = [predictor_of(axis, FULL_SIZE[axis]).probabilities(image, affine, flips=flips) for axis in axes]
    fused = together(axes)
    found = fused.probabilities(image, affine, flips=flips)
    np.testing.assert_allclose(found, np.mean(alone, axis=0), atol=2e-3)
    chances = np.concatenate([1 - found.sum(axis=0, keepdims=True), found])
    clear = np.sort(chances, axis=0)[-1] - np.sort(chances, axis=0)[-2] > 1e-3
    np.testing.assert_array_equal(fused(image, affine, flips=flips)[clear], chances.argmax(axis=0)[clear])
    assert clear.mean() > 0.9


class BySize(Oracle):
    """Surer of what it sees on slices of some shapes than of others."""

    def forward(self, images):
        padding = (images[:, :1] == images[:, :1, -1:, -1:]).float().mean(dim=(1, 2, 3), keepdim=True)
        return super().forward(images) * (0.02 + 0.1 * padding)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("flips", [False, True])
def test_one_run_of_three_planes_is_the_mean_of_its_directions(label, axis, flips):  # noqa: F811
    affine = affine_of("LPI", (1, 1, 1))
    noise = np.random.default_rng(1).normal(0, 20, label.shape)
    image = from_ras(np.clip(GREY * label + noise, 0, 255), affine)
    record = predictor_of(axis, 16).record
    alone = [
        Predictor(record.model_copy(update={"axis": each}), BySize(16), 4).probabilities(image, affine, flips=flips)
        for each in AXES
    ]
    fused = Predictor(record.model_copy(update={"axis": axis, "three_planes": True}), BySize(16), 4)
    found = fused.probabilities(image, affine, flips=flips)
    assert np.abs(alone[0] - alone[1]).max() > 0.05
    np.testing.assert_allclose(found, np.mean(alone, axis=0), atol=2e-3)


@pytest.mark.parametrize("output", ["labels", "logits"])
def test_the_evaluation_sees_the_three_planes_too(label, output):  # noqa: F811
    noisy = label + np.random.default_rng(1).normal(0, 0.3, label.shape)
    spec = slicing_of(num_classes=3, three_planes=True)
    found = SlicewiseInferer(spec, 4, output)(volume_of(noisy), BySize(16))
    alone = [SlicewiseInferer(plane, 4, "logits")(volume_of(noisy), BySize(16)).softmax(1) for plane in spec.planes]
    assert [plane.axis for plane in spec.planes] == AXES
    mean = sum(alone) / 3
    if output == "logits":
        np.testing.assert_allclose(found.softmax(1), mean, atol=2e-3)
    else:
        clear = mean.sort(dim=1).values[:, -2:].diff(dim=1).abs() > 1e-3
        np.testing.assert_array_equal(found[clear], mean.argmax(dim=1, keepdim=True)[clear])


@pytest.mark.parametrize("three", [False, True])
@pytest.mark.parametrize("output", ["labels", "logits"])
def test_tiles_give_what_whole_slices_give(label, three, output):  # noqa: F811
    noisy = volume_of(label + np.random.default_rng(1).normal(0, 0.2, label.shape))
    whole, tiled = (
        SlicewiseInferer(slicing_of(num_classes=3, three_planes=three, slice_size=size), 4, output)
        for size in (None, 32)
    )
    # The oracle looks at each pixel alone, so it has the same result for a slice of 32 pixels whole and in tiles of 16.
    found, expected = np.asarray(tiled(noisy, Oracle(16))), np.asarray(whole(noisy, Oracle(32)))
    if output == "logits":
        np.testing.assert_allclose(found, expected, atol=2e-3)
    else:
        assert (found != expected).mean() < 0.003  # where two classes are as likely, rounding decides


def test_prompts_lie_on_slices_of_one_direction():
    with pytest.raises(ValueError, match="three_planes cannot be"):
        slicing_of(prompt="box", three_planes=True)
    with pytest.raises(ValueError, match="tiles cannot be"):
        slicing_of(prompt="box", slice_size=32)


def test_only_runs_without_prompts_may_differ_in_their_direction(tmp_path):
    runs = [make_run(tmp_path / axis, axis=axis, seed=seed) for seed, axis in enumerate(AXES)]
    assert [record.axis for record in read_runs(runs).values()] == AXES
    prompted = [make_run(tmp_path / f"box {axis}", "box", axis=axis) for axis in AXES[:2]]
    with pytest.raises(InputError, match=r"cannot segment together with .*, since their slicing direction differ"):
        read_runs(prompted)
