import numpy as np
import pytest
import torch

from medsam_adapt.data.slices.geometry import SlicePlan
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.inference.class_scores import decide
from medsam_adapt.inference.slice_logits import SliceLogits, slices_at_a_time
from medsam_adapt.networks import Segmenter, build_sam
from tests.slicing import slicing_of

AIR = [0, 1, 4, 7]


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return Segmenter(build_sam("vit_nano", 32, 3)).eval()


@pytest.fixture(scope="module")
def volume():
    """(20, 18, 8) with four slices of nothing."""
    voxels = np.random.default_rng(0).uniform(1, 255, (20, 18, 8)).astype(np.float32)
    voxels[:, :, AIR] = 0
    return voxels


@pytest.mark.parametrize("channels", ["repeat", "adjacent"])
@pytest.mark.parametrize("flip", [(), (-1,)])
def test_air_is_segmented_once_and_as_if_it_were_computed(segmenter, volume, channels, flip, monkeypatch):
    slices = SliceLogits(slicing_of(channels=channels), volume, (1, 1, 1), segmenter, batch_size=3)
    seen = []
    forward = segmenter.forward
    monkeypatch.setattr(segmenter, "forward", lambda images: seen.append(len(images)) or forward(images))
    found = torch.cat([slices.logits(indices, flip) for indices in slices.batches()])
    assert sum(seen) == (8 - 4 + 1 if channels == "repeat" else 8 - 1 + 1)  # only slice 0 lies between two of air
    # as if computed: the plain path, without the slices of air being known
    images = slices.images(np.arange(8), flip)
    height, width = slices.plan.resized
    expected = slices.plan.restore_logits(forward(images)[..., :height, :width].flip(list(flip)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert not torch.allclose(found[0], found[2], atol=1e-2)


def test_classes_are_the_decision_on_the_logits(segmenter, volume):
    slices = SliceLogits(slicing_of(num_classes=2, absent=(2,)), volume, (1, 1, 2), segmenter)
    indices = np.arange(8)
    assert torch.equal(slices.classes(indices), decide(slices.logits(indices), False))
    assert not (slices.classes(indices) == 2).any()


@pytest.mark.parametrize(("noise", "enlarged"), [(0.0, 0), (30.0, 2)])
def test_logits_are_enlarged_where_borders_are_many(segmenter, monkeypatch, noise, enlarged):
    coarse = 8 * torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    drawn = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic")
    drawn = drawn + noise * torch.randn(drawn.shape, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(segmenter, "forward", lambda images: drawn.expand(len(images), -1, -1, -1))
    volume = np.random.default_rng(0).uniform(1, 255, (120, 100, 2)).astype(np.float32)
    slices = SliceLogits(slicing_of(), volume, (1, 1, 5), segmenter)
    expected = decide(slices.logits(np.arange(2)), False)
    calls = []
    restore = SlicePlan.restore_logits
    monkeypatch.setattr(SlicePlan, "restore_logits", lambda self, logits: calls.append(1) or restore(self, logits))
    assert torch.equal(slices.classes(np.arange(2)), expected)
    assert len(calls) == enlarged  # a slice at a time


@pytest.mark.parametrize("kind", ["window", "percentile"])
def test_a_window_applied_slice_by_slice_is_that_of_the_volume(segmenter, volume, kind):
    policy = IntensityPolicy(kind=kind, low=-100 if kind == "window" else None, high=200 if kind == "window" else None)
    slicing, indices = slicing_of("coronal"), np.arange(18)
    whole = SliceLogits(slicing, policy.apply(volume), (1, 2, 3), segmenter)
    by_slice = SliceLogits(slicing, volume, (1, 2, 3), segmenter, window=policy.window_of(volume))
    assert torch.equal(whole.logits(indices), by_slice.logits(indices))


def test_a_card_is_given_as_many_slices_as_its_memory_allows():
    gibibyte = 2**30
    assert [slices_at_a_time(None, size, 10**9) for size in (64, 128, 256, 512, 1024)] == [8, 8, 2, 1, 1]
    assert slices_at_a_time(8 * gibibyte, 1024, 14 * 1024**2) == 8
    assert slices_at_a_time(80 * gibibyte, 1024, 14 * 1024**2) == 16
    assert slices_at_a_time(80 * gibibyte, 512, 14 * 512**2) == 64
    assert slices_at_a_time(8 * gibibyte, 1024, 46 * 1024**2) == 2  # many classes
    assert slices_at_a_time(8 * gibibyte, 64, 2 * 2048**2) == 16  # a small network for large slices
    assert slices_at_a_time(gibibyte, 1024, 60 * 2048**2) == 1


def test_eight_slices_at_a_time_on_a_processor_unless_said(segmenter, volume):
    whole = np.concatenate([volume, volume], axis=2)
    sizes = {
        size: [
            len(batch) for batch in SliceLogits(slicing_of(), whole, (1, 1, 1), segmenter, batch_size=size).batches()
        ]
        for size in (None, 5)
    }
    assert sizes == {None: [8, 8], 5: [5, 5, 5, 1]}
