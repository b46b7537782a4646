import numpy as np
import pytest
import torch

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.prompts.file import Prompt
from medsam_adapt.inference.ensemble_slices import EnsembleSlices, prompt_source
from medsam_adapt.inference.prompted_slices import PromptSource
from tests.inference.test_inferer import FULL_SIZE, GREY, Oracle, label, predictor_of  # noqa: F401

AXES = list(FULL_SIZE)


def slices_of(label, axes, prompts=None):  # noqa: F811
    """The slices of a volume along the first of ``axes``, from an oracle for each."""
    record = predictor_of(axes[0], 16).record
    members = [(predictor_of(axis, 16).record.slicing, Oracle(FULL_SIZE[axis])) for axis in axes]
    image = (label * float(GREY)).astype(np.float32)
    return EnsembleSlices(record, members, image, np.eye(4), prompts or PromptSource(), 4)


def test_a_run_alone_has_the_scores_of_its_logits(label):  # noqa: F811
    slices = slices_of(label, ["axial"])
    assert slices.alone
    assert slices.shape == slices.first.shape == (10, 12, 16)
    seen = []
    for indices, scores in slices.scores(flips=False):
        seen += indices.tolist()
        assert torch.equal(scores.probabilities, slices.first.logits(indices).softmax(dim=1))
    assert seen == [*range(10)]


@pytest.mark.parametrize("axis", AXES)
def test_runs_of_other_directions_are_heard_along_the_first(label, axis):  # noqa: F811
    others = [each for each in AXES if each != axis]
    slices = slices_of(label, [axis, *others])
    assert not slices.alone
    assert slices.first.slicing.axis == axis
    decided = torch.cat([scores.decide() for _, scores in slices.scores(flips=True)])
    expected = torch.cat([scores.decide() for _, scores in slices_of(label, [axis]).scores(flips=False)])
    assert torch.equal(decided, expected)  # the oracle looks at each pixel alone


def test_prompts_come_before_a_reference(label):  # noqa: F811
    record = predictor_of("axial", 16).record.model_copy(update={"prompt": "points"})
    given = [Prompt(label=record.class_names[0], units="voxel", points=[{"at": (8, 8, 4)}])]
    ids = np.array([0, *record.label_ids])[label]
    masks = np.stack([ids == label_id for label_id in record.label_ids])
    affine = np.eye(4)

    of_prompts = prompt_source(record, label.shape, affine, given, ids)
    assert of_prompts.reference is None
    assert {index: [*on_slice] for index, on_slice in of_prompts.prompts.items()} == {4: [1]}
    of_labels = prompt_source(record, label.shape, affine, None, ids)
    assert of_labels.prompts is None
    assert sorted(np.unique(of_labels.reference)) == [0, 1, 2, 3]
    of_masks = prompt_source(record, label.shape, affine, None, masks)
    assert of_masks.reference is None
    assert [*of_masks.prompts] == [*range(10)]
    nothing = prompt_source(record, label.shape, affine, None, None)
    assert nothing == PromptSource()
    with pytest.raises(InputError, match="cannot segment without"):
        EnsembleSlices(record, [(record.slicing, Oracle(16))], label, affine, nothing)
