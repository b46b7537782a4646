"""On a graphics card recorded steps train as others do, and what cannot be recorded goes on without."""

import logging

import pytest
import torch

from medsam_adapt.core.update import PlainUpdate
from medsam_adapt.kernels.step_graph import WARM_UP, StepGraph
from tests.training.step_trainings import Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

KINDS = [
    ("decoder", "none"),
    ("decoder", "points"),
    ("samparser", "box"),
    ("blosam-first", "none"),
    ("blosam-second", "none"),
    ("blosam-joint", "none"),
    ("infosam", "box"),
    ("infosam", "none"),
]
STEPS = (2,) * (WARM_UP + 5)
NEAR = {"rtol": 5e-3, "atol": 1e-3}  # some kernels add in no fixed order, and AdamW makes steps of the smallest slopes


def recorded(graph):
    return [kind.replay is not None for kind in graph._kinds.values()]


def moved(training, start):
    """How far the trained tensors have come."""
    trained = dict(training.network.named_parameters())
    return torch.cat([(trained[name].detach() - tensor).flatten() for name, tensor in start.items()]).double().norm()


@pytest.mark.parametrize(("method", "prompt"), KINDS)
def test_recorded_steps_train_as_others(method, prompt, caplog):
    plain, graphed = Training(method, prompt, "cuda"), Training(method, prompt, "cuda")
    start = {name: each.detach().clone() for name, each in plain.network.named_parameters() if each.requires_grad}
    graph = StepGraph(graphed.update)
    with caplog.at_level(logging.WARNING):
        losses = graphed.run(graph, STEPS), plain.run(plain.update, STEPS)
    assert (caplog.messages, recorded(graph)) == ([], [True])
    torch.testing.assert_close(*losses, **NEAR)
    end = {name: dict(plain.network.named_parameters())[name].detach() for name in start}
    assert moved(plain, start) > 0
    assert moved(graphed, end) < 0.2 * moved(plain, start)


@pytest.mark.parametrize("method", ["decoder", "blosam-second"])
def test_rates_reach_what_is_recorded(method):
    """The same steps at rates of zero move nothing."""
    training = Training(method, device="cuda")
    graph = StepGraph(training.update)
    training.run(graph, STEPS)
    before = [tensor.clone() for tensor in training.network.state_dict().values()]
    for rate, moves in ((0.0, False), (1e-3, True)):
        for optimizer in training.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        graph(training.engine, training.batch())
        after = training.network.state_dict().values()
        assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True)) == moves
    assert recorded(graph) == [True]


def test_batches_of_two_sizes_share_what_is_made_inside(caplog):
    plain, graphed = Training("decoder", device="cuda"), Training("decoder", device="cuda")
    graph, sizes = StepGraph(graphed.update), (2,) * 4 + (3,) * 4 + (2, 3, 2, 1, 3, 2)
    losses = graphed.run(graph, sizes), plain.run(plain.update, sizes)
    torch.testing.assert_close(*losses, **NEAR)
    assert sorted(recorded(graph)) == [False, True, True]
    assert not caplog.messages


def test_a_validation_and_a_loaded_optimiser_between_steps():
    plain, graphed = Training("blosam-first", device="cuda"), Training("blosam-first", device="cuda")
    graph = StepGraph(graphed.update)
    for _ in range(2):
        losses = graphed.run(graph, STEPS), plain.run(plain.update, STEPS)
        torch.testing.assert_close(*losses, **NEAR)
        assert recorded(graph) == [True]
        for training in (plain, graphed):
            with torch.inference_mode():
                training.network.eval()(training.batch()[0])
            for optimizer in training.optimizers:
                optimizer.load_state_dict(optimizer.state_dict())


def test_dropout_is_drawn_anew_in_each_replay():
    training = Training("adaptformer", device="cuda")
    with torch.no_grad():  # at the start nothing comes through the branch behind the dropout
        for block in training.network.sam.image_encoder.blocks:
            torch.nn.init.normal_(block.mlp.up.weight)
    graph = StepGraph(training.update)
    losses = {graph(training.engine, training.batch())[0]["loss"] for _ in STEPS}  # at learning rates of zero
    assert recorded(graph) == [True]
    assert len(losses) == len(STEPS)


class Waiting(PlainUpdate):
    def step(self, engine, inputs):
        loss = super().step(engine, inputs)
        return loss if loss.item() > 0 else -loss


def test_where_recording_fails_training_goes_on(caplog):
    """Dropout and checkpoints of its state included."""
    training = Training("adaptformer", device="cuda")
    graph = StepGraph(Waiting())
    with caplog.at_level(logging.WARNING):
        losses = training.run(graph, STEPS)
    assert all(loss > 0 for loss in losses)
    (warning,) = caplog.messages
    assert "could not be recorded" in warning
    torch.cuda.set_rng_state(torch.cuda.get_rng_state())
    torch.cuda.synchronize()
