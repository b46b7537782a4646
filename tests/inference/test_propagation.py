"""Prompts that are followed from slice to slice."""

import numpy as np
import pytest
import torch

from medsam_adapt.data.prompts.file import Prompt
from medsam_adapt.data.prompts.simulated import SlicePrompt
from medsam_adapt.inference.predictor import Predictor
from medsam_adapt.inference.prompted_slices import PromptSource
from medsam_adapt.inference.propagation import propagate
from medsam_adapt.inference.slice_logits import SliceLogits
from tests.inference.test_inferer import GREY, Oracle, predictor_of


class Shape(Oracle):
    """Draws the part of the bright structure that lies in the box, or the bright structure under the point."""

    def decode(self, embedding, boxes=None, points=None):
        prediction = super().decode(embedding, boxes, points)
        bright = embedding[:, 1:2] > GREY / 2
        if boxes is None:
            inside = prediction.logits > 0
            hit = (bright & inside).flatten(1).any(1)[:, None, None, None]
            prediction.logits = torch.where(bright & hit, 1.0, -1.0)
        else:
            prediction.logits = torch.where(bright, prediction.logits, -1.0)
        return prediction


def cone():
    """A structure that shrinks slice by slice, ends, and beyond a gap another one."""
    image = np.zeros((16, 16, 12), np.float32)
    for index, half in enumerate([2, 3, 4, 4, 3, 2, 1]):
        image[8 - half : 8 + half, 8 - half : 8 + half, index + 1] = GREY
    image[2:14, 2:14, 9:] = GREY
    return image


@pytest.mark.parametrize("mode", ["box", "points"])
@pytest.mark.parametrize("started", [(3,), (2, 6)])
def test_prompts_are_followed_until_the_structure_ends(mode, started):
    predictor = Predictor(predictor_of("axial", 16).record.model_copy(update={"prompt": mode}), Shape(16, "structure"))
    image = cone()
    given = {}
    for index in started:
        (columns, rows) = (np.flatnonzero(image[:, :, index].any(axis=axis)) for axis in (1, 0))
        box = (15 - columns[-1], 15 - rows[-1], 15 - columns[0], 15 - rows[0])
        prompt = SlicePrompt(box=box) if mode == "box" else SlicePrompt(points=((7.0, 7.0, True),))
        given[index] = {2: prompt}
    source = PromptSource(prompts=given)
    slices = SliceLogits(predictor._members[0][0], image, (1, 1, 1), predictor.segmenter, source)
    complete = propagate(slices, given, mode)
    assert sorted(complete) == [1, 2, 3, 4, 5, 6]  # on slice 7 it is a fourth of that on slice 6
    assert all(complete[index] == given[index] for index in started)


def test_a_followed_structure_is_segmented():
    label = (cone() > 0).astype(np.uint8)
    record = predictor_of("axial", 16).record.model_copy(update={"prompt": "points"})
    predictor = Predictor(record, Shape(16, "structure"))
    prompt = Prompt(label="spleen", units="voxel", points=[{"at": (8, 8, 4)}])
    alone, followed = (predictor(cone(), np.eye(4), prompts=[prompt], propagate=way) for way in (False, True))
    np.testing.assert_array_equal(alone[:, :, 4], 2 * label[:, :, 4])
    assert not alone[:, :, 5].any()
    np.testing.assert_array_equal(followed[:, :, :7], 2 * label[:, :, :7])
    assert not followed[:, :, 8:].any()
