import pytest
import torch

from medsam_adapt.data.slices.transforms import possible_classes
from medsam_adapt.methods import SegmentationLoss
from tests import golden


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("head", ["structure", "overlapping"])
def test_dice_and_cross_entropy_are_the_reference(head, dtype):
    figures = golden.load("dicece_loss")
    logits = torch.tensor(figures["logits"], dtype=dtype, requires_grad=True)
    label = torch.tensor(figures["target"])
    loss = SegmentationLoss(head)(logits, label)
    loss.backward()
    assert loss.item() == pytest.approx(float(figures["monai_1.6.1.loss_f64"]), rel=1e-5)
    assert golden.error({"grad_logits": logits.grad}, figures, "monai_1.6.1.") < 1e-5
    dice = SegmentationLoss(head, ce_weight=0.0)(logits, label).item()
    assert dice == pytest.approx(float(figures["monai_1.6.1.dice_term_f64"]), rel=1e-5)


def test_under_old_monai_the_released_cross_entropy_was_zero():
    figures = golden.load("dicece_loss")
    logits, label = torch.tensor(figures["logits"]), torch.tensor(figures["target"])
    released = float(figures["monai_1.2.0.loss_f64"])
    assert SegmentationLoss("structure", ce_weight=0.0)(logits, label).item() == pytest.approx(released, rel=1e-5)
    assert SegmentationLoss("structure")(logits, label).item() > 2 * released


def test_a_label_larger_than_the_logits_is_reduced_at_pixel_centres():
    label = torch.zeros(1, 1, 8, 8, dtype=torch.long)
    label[..., 2:6, 4:] = 1
    logits = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    loss = SegmentationLoss("exclusive")
    assert torch.equal(loss(logits, label), loss(logits, label[..., 1::2, 1::2]))


@pytest.mark.parametrize("head", ["structure", "overlapping", "exclusive"])
def test_pixels_that_nobody_knows_count_nothing(head):
    """The loss and its gradient are those of the known pixels alone, and all of it can be compiled in one piece."""
    random = torch.Generator().manual_seed(0)
    channels = 1 if head == "structure" else 3
    logits = torch.randn(2, channels, 6, 8, generator=random, requires_grad=True)
    label = torch.randint(
        3 if head == "exclusive" else 2, (2, channels if head != "exclusive" else 1, 6, 8), generator=random
    )
    label[:, :, 4:] = 255
    loss = torch.compile(SegmentationLoss(head), backend="eager", fullgraph=True)(logits, label)
    torch.testing.assert_close(loss, SegmentationLoss(head)(logits[:, :, :4], label[:, :, :4]))
    (slope,) = torch.autograd.grad(loss, logits)
    assert not slope[:, :, 4:].any()
    assert slope[:, :, :4].any()
    nothing = torch.autograd.grad(SegmentationLoss(head)(logits, torch.full_like(label, 255)), logits)[0]
    assert torch.equal(nothing, torch.zeros_like(logits))


def test_what_pixels_may_be_is_the_label_where_every_class_was_drawn():
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 6, 8, generator=random)
    label = torch.randint(4, (2, 1, 6, 8), generator=random)
    label[0, :, 4:] = 255
    possible = torch.stack([possible_classes(each[0], torch.zeros(3, dtype=torch.bool)) for each in label])
    torch.testing.assert_close(SegmentationLoss()(logits, possible), SegmentationLoss()(logits, label))


def test_a_class_that_nobody_drew_is_not_trained_as_background():
    """Per sample: the first lacks class 2, whose pixels are labelled background there."""
    random = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 6, 8, generator=random, requires_grad=True)
    label = torch.zeros(2, 6, 8, dtype=torch.long)
    label[:, :2] = 1
    label[1, 2:4] = 2
    lacking = torch.tensor([[False, True], [False, False]])
    possible = torch.stack([possible_classes(*each) for each in zip(label, lacking, strict=True)])
    loss = torch.compile(SegmentationLoss(), backend="eager", fullgraph=True)(logits, possible)
    probabilities = logits.softmax(dim=1)
    merged = (probabilities[0, 0] + probabilities[0, 2])[2:].log().sum() + probabilities[0, 1, :2].log().sum()
    plain = torch.nn.functional.cross_entropy(logits[1:], label[1:], reduction="sum")
    background = torch.stack(
        [torch.where(label[0] == 1, probabilities[0, 0], 1 - probabilities[0, 1]), probabilities[1, 0]]
    )
    first = probabilities[:, 1]
    second = probabilities[:, 2] * torch.stack([label[0] == 1, torch.ones_like(label[1], dtype=torch.bool)])
    truth = [(label == 0), (label == 1), (label == 2)]
    dice = [
        1 - (2 * (p * t).sum() + 1e-5) / ((p**2).sum() + t.sum() + 1e-5)
        for p, t in zip((background, first, second), truth, strict=True)
    ]
    torch.testing.assert_close(loss, (plain - merged) / label.numel() + sum(dice) / 3)
    # whether the first sample's background pixels are background or class 2 makes no difference
    swapped = logits.detach().clone()
    swapped[0, [0, 2], 2:] = swapped[0, [2, 0], 2:]
    torch.testing.assert_close(SegmentationLoss()(swapped, possible), loss)


def test_nothing_is_learnt_from_a_case_in_which_nobody_drew_anything():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    label = torch.zeros(4, 4, dtype=torch.long)
    possible = possible_classes(label, torch.ones(2, dtype=torch.bool))[None]
    (slope,) = torch.autograd.grad(SegmentationLoss()(logits, possible), logits)
    assert torch.equal(slope, torch.zeros_like(slope))


def test_an_ignored_pixel_of_one_mask_counts_in_the_others():
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 6, 8, generator=random)
    label = torch.randint(2, (2, 3, 6, 8), generator=random)
    label[:, 1] = 255
    ours = SegmentationLoss("overlapping", dice_weight=0)(logits, label)
    torch.testing.assert_close(ours, SegmentationLoss("overlapping", dice_weight=0)(logits[:, ::2], label[:, ::2]))


def _balanced(logits, label, balance):
    """The weighted cross-entropy of classes that exclude each other, by torch."""
    classes = logits.shape[1]
    counts = torch.bincount(label[label != 255].flatten(), minlength=classes).float()
    weights = (counts.sum() / counts.clamp(min=1)) ** balance
    return torch.nn.functional.cross_entropy(logits, label[:, 0], weight=weights, ignore_index=255)


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_balance_is_the_weighted_cross_entropy_of_torch(balance):
    random = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 4, 6, 8, generator=random)
    label = torch.randint(3, (2, 1, 6, 8), generator=random) * (torch.rand(2, 1, 6, 8, generator=random) < 0.4)
    label[0, :, 5] = 255
    ours = SegmentationLoss(dice_weight=0, balance=balance)(logits, label)
    torch.testing.assert_close(ours, _balanced(logits, label, balance))
    possible = torch.stack([possible_classes(each[0], torch.zeros(3, dtype=torch.bool)) for each in label])
    torch.testing.assert_close(SegmentationLoss(dice_weight=0, balance=balance)(logits, possible), ours)
    assert not torch.allclose(ours, SegmentationLoss(dice_weight=0)(logits, label))


def test_balance_weighs_the_inside_of_a_mask_against_its_outside():
    random = torch.Generator().manual_seed(3)
    logits, label = torch.randn(1, 2, 8, 8, generator=random), torch.zeros(1, 2, 8, 8, dtype=torch.long)
    label[0, 0, :2, :2] = 1
    label[0, 1, :, 4:] = 1
    ours = SegmentationLoss("overlapping", dice_weight=0, balance=1.0)(logits, label)
    per_pixel = torch.nn.functional.binary_cross_entropy_with_logits(logits, label.float(), reduction="none")
    means = [per_pixel[:, c][label[:, c] == side].mean() for c in (0, 1) for side in (0, 1)]
    torch.testing.assert_close(ours, torch.stack(means).mean())
