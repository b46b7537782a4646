"""A step that is recorded and replayed trains as one that is computed anew each time."""

import logging

import pytest
import torch

from medsam_adapt.bundle.catalogue import resolve_knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.update import PlainUpdate
from medsam_adapt.kernels.step_graph import MOST_KINDS, WARM_UP, StepGraph
from medsam_adapt.methods import AdaptFormer, BiLevelUpdate, DecoderLoRA, infosam
from medsam_adapt.networks import build_segmenter
from medsam_adapt.training import setup as engine
from tests.training.step_trainings import TapeRecorder, Training

METHODS = ["decoder", "samparser", "blosam-first", "blosam-second", "blosam-joint", "infosam"]
PROMPTED = [("decoder", "points"), ("infosam", "box"), ("blosam-second", "box")]


def equal(first, second):
    return all(torch.equal(one, other) for one, other in zip(first.state(), second.state(), strict=True))


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """Nothing may wait for the device, though here it is the processor."""
    monkeypatch.setattr(infosam, "_answers_at_once", lambda _: False)


@pytest.mark.parametrize(("method", "prompt"), [*((method, "none") for method in METHODS), *PROMPTED])
def test_a_recorded_training_is_bitwise_the_same(method, prompt):
    """Of rates that change, and without one wait for the device in what is recorded."""
    plain, recorded = Training(method, prompt), Training(method, prompt)
    graph = StepGraph(recorded.update, TapeRecorder())
    assert recorded.run(graph) == plain.run(plain.update, on_device=True)
    assert equal(plain, recorded)
    assert graph.recorder.recordings == 1


@pytest.mark.parametrize("method", ["samparser", "blosam-first", "blosam-second", "blosam-joint"])
def test_it_is_that_of_plain_learning_rates(method):
    """But for rounding where a rate multiplies on the device."""
    plain, recorded = Training(method), Training(method)
    losses = plain.run(plain.update), recorded.run(StepGraph(recorded.update, TapeRecorder()))
    if method == "blosam-second":
        torch.testing.assert_close(*losses, rtol=1e-4, atol=0)
    else:
        assert losses[0] == losses[1]
        assert equal(plain, recorded)


def test_batches_of_another_size_have_a_recording_of_their_own():
    plain, recorded = Training("decoder"), Training("decoder")
    graph, sizes = StepGraph(recorded.update, TapeRecorder()), (2, 2, 2, 3, 2, 2, 3, 3, 2, 3, 3, 1, 2)
    assert recorded.run(graph, sizes) == plain.run(plain.update, sizes)
    assert equal(plain, recorded)
    assert graph.recorder.recordings == 2  # one image alone came too rarely


def test_recordings_are_few():
    plain, recorded = Training("decoder"), Training("decoder")
    graph = StepGraph(recorded.update, TapeRecorder())
    sizes = [count for count in range(1, MOST_KINDS + 3) for _ in range(WARM_UP + 1)]
    assert recorded.run(graph, sizes) == plain.run(plain.update, sizes)
    assert graph.recorder.recordings == MOST_KINDS


def test_what_else_a_step_depends_on_makes_another_kind():
    """InfoSAM's distillation begins after the first epoch here."""
    plain, recorded = Training("infosam"), Training("infosam")
    graph = StepGraph(recorded.update, TapeRecorder())
    for epoch in (1, 2):
        for training in (plain, recorded):
            training.engine.state.epoch = epoch
        assert recorded.run(graph) == plain.run(plain.update)
    assert graph.recorder.recordings == 2


def test_a_validation_between_steps_changes_nothing():
    plain, recorded = Training("decoder"), Training("decoder")
    graph = StepGraph(recorded.update, TapeRecorder())
    for _ in range(2):
        assert recorded.run(graph, (2,) * 5) == plain.run(plain.update, (2,) * 5)
        for training in (plain, recorded):
            with torch.inference_mode():
                training.network.eval()(training.batch()[0])
    assert equal(plain, recorded)


def test_an_optimiser_that_is_loaded_is_recorded_anew():
    plain, recorded = Training("blosam-first"), Training("blosam-first")
    graph = StepGraph(recorded.update, TapeRecorder())
    for _ in range(2):
        assert recorded.run(graph) == plain.run(plain.update)
        for training in (plain, recorded):
            for optimizer in training.optimizers:
                optimizer.load_state_dict(optimizer.state_dict())
    assert graph.recorder.recordings == 2
    assert equal(plain, recorded)


def test_checkpoints_hold_what_those_of_a_plain_training_do():
    plain, recorded = Training("blosam-second"), Training("blosam-second")
    plain.run(plain.update), recorded.run(StepGraph(recorded.update, TapeRecorder()))
    for one, other in zip(plain.optimizers, recorded.optimizers, strict=True):
        assert one.state_dict()["param_groups"] == other.state_dict()["param_groups"]
    assert all(parameter.grad is None for parameter in recorded.network.parameters())


class Refuses(TapeRecorder):
    def record(self, step):
        self.recordings += 1
        step_was_begun = RuntimeError("operation not permitted when stream is capturing\nand so on")
        raise step_was_begun


def test_where_recording_fails_a_warning_says_why_and_training_goes_on(caplog):
    plain, recorded = Training("blosam-first"), Training("blosam-first")
    graph = StepGraph(recorded.update, Refuses())
    with caplog.at_level(logging.WARNING):
        assert recorded.run(graph, (2,) * 6 + (3,) * 5) == plain.run(plain.update, (2,) * 6 + (3,) * 5)
    assert equal(plain, recorded)
    assert graph.recorder.recordings == 1
    (warning,) = caplog.messages
    assert "(RuntimeError: operation not permitted when stream is capturing); it goes on without" in warning


class Waiting(PlainUpdate):
    def step(self, engine, inputs):
        loss = super().step(engine, inputs)
        return loss if loss.item() > 0 else -loss


def test_a_step_that_waits_for_the_device_is_noticed(caplog):
    """By the stand-in that the tests above rely on."""
    training = Training("decoder")
    training.run(StepGraph(Waiting(), TapeRecorder()))
    assert "_local_scalar_dense waits for the device" in caplog.text


def test_graphs_are_asked_for_by_the_settings():
    network = build_segmenter("vit_nano", 32, 2, DecoderLoRA(), checkpoint="random", learn_prompt=True)
    off, on = (resolve_knobs("blosam", sets={"compile": choice}) for choice in (True, "graphs"))
    update = BiLevelUpdate("first")
    assert engine.recorded(off, network) is None
    assert engine.recorded(off, network, update) is update
    assert isinstance(engine.recorded(on, network).update, PlainUpdate)
    assert engine.recorded(on, network, update).update is update


def test_bi_level_steps_with_dropout_are_not_recorded():
    network = build_segmenter("vit_nano", 32, 2, AdaptFormer(), checkpoint="random", learn_prompt=True)
    knobs = resolve_knobs("blosam", sets={"compile": "graphs"})
    with pytest.raises(InputError, match=r"cannot record this step \(BLO-SAM wants the same dropout .*\): use compile"):
        engine.recorded(knobs, network, BiLevelUpdate("second"))
    assert engine.recorded(knobs, network).update  # a plain step draws new numbers each time, recorded or not
