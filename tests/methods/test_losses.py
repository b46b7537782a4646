import pytest
import torch

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
