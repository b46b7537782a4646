import numpy as np
import pytest
import torch

from medsam_adapt.data.prompts.simulated import SlicePrompt
from medsam_adapt.inference import prompted_slices
from medsam_adapt.inference.class_scores import ABSENT_LOGIT
from medsam_adapt.inference.prompted_slices import PromptSource
from medsam_adapt.inference.slice_logits import SliceLogits
from medsam_adapt.networks import Segmenter, build_sam
from tests.slicing import slicing_of

BOX = SlicePrompt(box=(3.0, 4.0, 12.0, 15.0))
OTHER_BOX = SlicePrompt(box=(8.0, 2.0, 16.0, 11.0))
POINT = SlicePrompt(points=((9.0, 8.0, True),))
INDICES = np.arange(4)


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return Segmenter(build_sam("vit_nano", 32), "structure").eval()


@pytest.fixture
def encoded(segmenter, monkeypatch):
    """How many slices each call of the image encoder is given."""
    seen = []
    encode = segmenter.encode
    monkeypatch.setattr(segmenter, "encode", lambda images: seen.append(len(images)) or encode(images))
    return seen


def slices_of(segmenter, prompts=None, **changes):
    volume = np.random.default_rng(0).uniform(1, 255, (20, 18, 4)).astype(np.float32)
    spec = slicing_of(num_classes=3, prompt="box", **changes)
    return SliceLogits(spec, volume, (1, 1, 1), segmenter, PromptSource(prompts=prompts or {}))


def test_an_embedding_that_is_kept_draws_the_same(segmenter, encoded):
    fresh = slices_of(segmenter).prompted.draw_logits(2, BOX)
    kept = slices_of(segmenter).prompted
    kept.embed(2)
    assert kept.has_embedding(2)
    assert not kept.has_embedding(1)
    encoded.clear()
    assert torch.equal(kept.draw_logits(2, BOX), fresh)
    assert np.array_equal(kept.draw(2, BOX), (fresh > 0).numpy())
    assert encoded == []


def test_the_oldest_embedding_is_removed_when_there_is_no_room(segmenter, monkeypatch):
    drawn = slices_of(segmenter).prompted
    nbytes = segmenter.encode(torch.zeros(1, 3, 32, 32)).nbytes
    monkeypatch.setattr(prompted_slices, "_KNOWN", 2 * nbytes)
    for index in range(3):
        drawn.embed(index)
    assert [drawn.has_embedding(index) for index in range(3)] == [False, True, True]


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("values", [1, 2**23])
def test_each_prompt_draws_on_its_own_slice_as_if_it_were_alone(segmenter, monkeypatch, overlapping, values):
    """However many prompts, of however many kinds, are decoded at once."""
    monkeypatch.setattr(prompted_slices, "_VALUES", values)
    given = {0: {1: BOX, 3: OTHER_BOX}, 2: {2: POINT, 1: BOX}}
    slices = slices_of(segmenter, given, overlapping=overlapping)
    logits = slices.logits(INDICES)
    assert logits.shape == (4, 3 if overlapping else 4, *slices.shape[1:])
    classes = logits if overlapping else logits[:, 1:]
    for index in INDICES:
        for structure in (1, 2, 3):
            found = classes[index, structure - 1]
            if structure in given.get(index, {}):
                alone = slices_of(segmenter).prompted.draw_logits(index, given[index][structure])
                torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)
            else:
                assert (found - ABSENT_LOGIT).abs().max() < 1  # but for the rounding of resizing


def test_embeddings_of_followed_prompts_are_used_again(segmenter, encoded):
    slices = slices_of(segmenter, {1: {1: BOX}, 2: {1: BOX}})
    for index in (1, 2):
        slices.prompted.embed(index)
    encoded.clear()
    kept = slices.logits(INDICES)
    assert encoded == []
    slices.logits(INDICES, (-1,))
    assert encoded == [2]  # of mirrored slices none are kept
    torch.testing.assert_close(kept, slices_of(segmenter, {1: {1: BOX}, 2: {1: BOX}}).logits(INDICES))
