import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from medsam_adapt.methods.blosam import BiLevelUpdate, hypergradient
from medsam_adapt.methods.losses import SegmentationLoss
from tests import golden


class Toy(nn.Module):
    """logits = W2 tanh(W1 x + b1 + a) + b2, with the tensor names of the reference figures."""

    def __init__(self, figures, dtype):
        super().__init__()
        for name in figures["param_order_of_flat_w"]:
            value = torch.tensor(figures[f"p0.{name}"], dtype=dtype)
            self.register_parameter(str(name).split(".", 2)[2].replace(".", "_"), nn.Parameter(value))
        self.prompt = nn.Parameter(torch.tensor(figures["p0.sam.prompt_encoder.no_mask_embed.weight"], dtype=dtype))

    @property
    def weights(self):
        return [self.spare, self.lin1_weight, self.lin1_bias, self.lin2_weight, self.lin2_bias]

    def forward(self, image):
        hidden = torch.einsum("dc,bchw->bdhw", self.lin1_weight, image)
        hidden = torch.tanh(hidden + (self.lin1_bias + self.prompt[0])[:, None, None])
        return torch.einsum("kd,bdhw->bkhw", self.lin2_weight, hidden) + self.lin2_bias[:, None, None]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def problem(request):
    figures = golden.load("blosam_bilevel")
    toy = Toy(figures, request.param)
    loss = SegmentationLoss("exclusive", ce_weight=0.2, dice_weight=0.8)

    def loss_of(part):
        image = torch.tensor(figures[f"{part}_image"], dtype=request.param)
        label = torch.tensor(figures[f"{part}_label"])[:, None]
        return lambda: loss(toy(image), label)

    return figures, toy, loss_of("train"), loss_of("valid")


def relative_error(value, reference):
    value = value.detach().numpy()
    return np.abs(value - reference).max() / np.abs(reference).max()


def test_losses_are_those_of_the_reference(problem):
    figures, _, loss_d1, loss_d2 = problem
    assert relative_error(loss_d1(), figures["loss_train_f64"]) < 1e-6
    assert relative_error(loss_d2(), figures["loss_valid_f64"]) < 1e-6


@pytest.mark.parametrize(
    ("mode", "key", "tolerance"),
    [
        ("first_order", "first_order.prompt_grad", 1e-5),
        ("exact", "sgd.hypergrad_exact", 1e-5),
        ("finite_difference", "sgd.hypergrad_fd", 1e-5),
    ],
)
def test_hypergradient_is_that_of_the_reference(problem, mode, key, tolerance):
    figures, toy, loss_d1, loss_d2 = problem
    gradient = hypergradient(loss_d1, loss_d2, toy.weights, toy.prompt, float(figures["eta"]), mode)
    reference = figures[f"{key}_f64" if gradient.dtype == torch.float64 else key]
    assert relative_error(gradient, reference) < tolerance


def test_first_order_alone_is_eight_per_cent_off(problem):
    figures, toy, loss_d1, loss_d2 = problem
    at_virtual_weights = figures["sgd.direct_grad"]
    exact = hypergradient(loss_d1, loss_d2, toy.weights, toy.prompt, float(figures["eta"]), "exact")
    assert 0.07 < relative_error(exact, at_virtual_weights) < 0.09


def test_without_the_virtual_step_the_hypergradient_is_first_order(problem):
    _, toy, loss_d1, loss_d2 = problem
    first = hypergradient(loss_d1, loss_d2, toy.weights, toy.prompt, 0.1, "first_order")
    second = hypergradient(loss_d1, loss_d2, toy.weights, toy.prompt, 0.0, "finite_difference")
    torch.testing.assert_close(second, first)


@pytest.mark.parametrize("mode", ["first_order", "exact", "finite_difference"])
def test_nothing_is_left_changed(mode):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))
    prompt = nn.Parameter(torch.randn(3))
    optimizer = torch.optim.AdamW(network.parameters())
    inputs = torch.randn(5, 3)
    network(inputs + prompt).square().mean().backward()
    optimizer.step()
    tensors = [*network.parameters(), prompt]
    before = copy.deepcopy(
        (network.state_dict(), optimizer.state_dict(), [t.grad for t in tensors], torch.get_rng_state())
    )
    hypergradient(
        lambda: network(inputs + prompt).square().mean(),
        lambda: (network(inputs + prompt) - 1).square().mean(),
        list(network.parameters()),
        prompt,
        0.1,
        mode,
    )
    after = (network.state_dict(), optimizer.state_dict(), [t.grad for t in tensors], torch.get_rng_state())
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_weights_are_restored_when_a_loss_fails():
    weight, prompt = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    def failing():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        hypergradient(lambda: (weight * prompt).sum(), failing, [weight], prompt, 0.1)
    assert torch.equal(weight, torch.ones(2))


class NothingFrozen(nn.Identity):
    def frozen_features(self, image):
        return None


def test_joint_trains_weights_and_prompt_on_the_mean_of_both_losses():
    weight, prompt = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([3.0]))
    engine = SimpleNamespace(
        network=NothingFrozen(),
        inferer=lambda image, network, **_: weight * prompt * image,
        loss_function=lambda logits, label: (logits - label).sum(),
        prepare_batch=lambda batch, *_: (batch, torch.zeros(1), (), {}),
        optimizer=torch.optim.SGD([weight], lr=0.1),
        state=SimpleNamespace(device="cpu"),
        non_blocking=False,
        to_kwargs={},
    )
    update = BiLevelUpdate(
        "joint", prompt_optimizer=torch.optim.SGD([prompt], lr=0.01), second_loader=iter([torch.tensor([5.0])])
    )
    assert update(engine, torch.tensor([1.0])) == [{"loss": pytest.approx((6 + 30) / 2)}]
    # ∂/∂w of w·a·(1 + 5)/2 = 9 and ∂/∂a = 6, both taken before either moved
    assert weight.item() == pytest.approx(2 - 0.1 * 9)
    assert prompt.item() == pytest.approx(3 - 0.01 * 6)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="first, second or joint"):
        BiLevelUpdate(order="third")
