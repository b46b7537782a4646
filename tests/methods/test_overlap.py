"""Overlapping classes and ignored voxels in the loss, at prediction and in the scores."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.volumes.label_coding import IGNORED
from medsam_adapt.evaluation.evaluator import VolumeScores, comparable, labelled_volumes
from medsam_adapt.evaluation.pictures import CaseView
from medsam_adapt.inference.inferer import SlicewiseInferer
from medsam_adapt.methods import SegmentationLoss, StructureLoss
from tests.data import samples
from tests.inference.test_inferer import Oracle
from tests.slicing import slicing_of

TABLE = np.array([[0, 0], [1, 0], [1, 1], [IGNORED, IGNORED]], np.uint8)


@pytest.mark.parametrize(("head", "channels"), [("exclusive", 3), ("overlapping", 2), ("structure", 1)])
def test_ignored_pixels_are_not_trained_on(head, channels):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, 4, 6, generator=random, requires_grad=True)
    label = torch.randint(0, 3 if head == "exclusive" else 2, (2, 1 if head == "exclusive" else channels, 4, 6))
    ignoring = label.clone()
    ignoring[:, :, :, 4:] = IGNORED
    loss = SegmentationLoss(head)
    value = loss(logits, ignoring)
    assert torch.isclose(value, loss(logits[..., :4], label[..., :4]))
    value.backward()
    assert not logits.grad[..., 4:].any()
    assert logits.grad[..., :4].all()
    assert loss(logits, torch.full_like(label, IGNORED)).item() == 0


def test_the_structure_loss_gives_ignored_pixels_no_weight():
    logits = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    label = torch.zeros(2, 2, 8, 8, dtype=torch.long)
    label[..., 2:5, 2:5] = 1
    label[..., 6:] = IGNORED
    for weighted in (True, False):
        logits.grad = None
        StructureLoss(weighted)(logits, label).backward()
        assert not logits.grad[..., 6:].any()
        assert logits.grad[..., :6].all()
    assert torch.isfinite(StructureLoss()(logits, torch.full_like(label, IGNORED)))


@pytest.mark.parametrize("prompt", ["box", "points"])
def test_prompts_of_overlapping_structures_come_from_their_own_masks(prompt):
    """The oracle draws exactly its box: structures that share pixels are drawn whole."""
    parts = np.zeros((16, 16, 4), np.int64)
    parts[2:12, 3:13, 1:3] = 1
    parts[4:7, 5:9, 1:3] = 2
    inferer = SlicewiseInferer(slicing_of(prompt=prompt, num_classes=2, overlapping=True, absent=[]))
    volume = MetaTensor(torch.zeros(1, 1, 16, 16, 4))
    reference, table = torch.from_numpy(parts)[None, None], torch.from_numpy(TABLE)[None]
    masks = inferer(volume, Oracle(16, "structure", 2), reference=reference, table=table)
    assert masks.shape == (1, 2, 16, 16, 4)
    if prompt == "box":
        assert torch.equal(masks[0, 0].bool().as_tensor(), reference[0, 0] >= 1)
        assert torch.equal(masks[0, 1].bool().as_tensor(), reference[0, 0] == 2)
    else:
        assert masks.sum(dim=(0, 2, 3, 4)).tolist() == [2, 2]


def test_what_is_compared_leaves_ignored_voxels_out():
    parts = np.array([0, 1, 2, 3]).reshape(1, 1, 2, 2)
    prediction, truth = comparable(np.ones((2, 1, 2, 2)), parts, TABLE)
    assert truth.reshape(2, 4).tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]
    assert prediction.reshape(2, 4).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]
    classes = np.array([0, 2, IGNORED, 1]).reshape(1, 1, 2, 2)
    prediction, truth = comparable(np.full((1, 1, 2, 2), 2), classes)
    assert (prediction.ravel().tolist(), truth.ravel().tolist()) == ([2, 2, 0, 2], [0, 2, 0, 1])


def test_scores_of_overlapping_classes():
    scores = VolumeScores(["organs", "liver"])
    truth = np.zeros((2, 4, 4, 4), np.uint8)
    truth[0, :, :, 1:3] = 1
    truth[1, :2, :, 1:3] = 1
    scores.update(("a", truth, truth, (1.0, 1.0, 1.0)))
    scores.update(("b", truth[::-1], truth, (1.0, 1.0, 1.0)))
    assert [scores.cases[case]["organs"]["dsc"] for case in "ab"] == [1, pytest.approx(2 / 3)]


def test_whole_volumes_come_with_their_table_and_ignored_voxels(tmp_path):
    samples.nnunet(tmp_path, {"background": 0, "organs": [1, 2], "liver": [1], "ignore": 3})
    policy = IntensityPolicy(kind="window", low=-160, high=240, modality="CT")
    item = labelled_volumes(tmp_path, "nnunet", ["organ_001"], slicing_of(num_classes=2, policy=policy))[0]
    assert item["label"].shape == item["image"].shape == (1, *samples.SHAPE)
    rows = item["table"][np.asarray(item["label"])[0]]
    label = samples.body(1)[1][::-1, ::-1]  # the sample's axes point left and posterior
    assert np.array_equal(rows[..., 0], label > 0)
    assert np.array_equal(rows[..., 1], label == 1)


def test_a_view_of_masks_and_colours():
    masks = np.zeros((2, 6, 5, 1), np.uint8)
    masks[1, 2:4] = 1
    view = CaseView.of(np.zeros((3, 6, 5, 1)), masks, masks, (1.0, 1.0, 1.0))
    assert (view.image.shape, view.prediction.shape) == ((3, 5, 6), (2, 5, 6))
    assert view.reference[1].sum() == 10
