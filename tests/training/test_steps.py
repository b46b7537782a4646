"""Ways to run a training step that must not change what it does: few slices at once, and compiled."""

import functools

import pytest
import torch
from ignite.engine import Events

from medsam_adapt.bundle.catalogue import read_config, resolve_knobs, workflow
from medsam_adapt.bundle.contents import bundle_names
from medsam_adapt.core.errors import InputError
from medsam_adapt.kernels import step_graph
from medsam_adapt.kernels.step_graph import WARM_UP
from medsam_adapt.training import setup as engine
from medsam_adapt.training.setup import compiles
from tests.equal_runs import load
from tests.feature_cache.test_frozen_work import STEPS, losses_of
from tests.training.step_trainings import TapeRecorder

BUNDLES = ["samcobot", "infosam", "blosam"]
PLAIN = {"prompt": "none", "cache_frozen": "off", "batch_size": 3}


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_run_of_few_slices_at_once_equals_that_of_all(phantoms, tmp_path, bundle):
    together = losses_of(bundle, phantoms, tmp_path, **PLAIN)
    in_parts = losses_of(bundle, phantoms, tmp_path / "parts", slices_at_once=2, **PLAIN)
    assert len(together) == STEPS
    torch.testing.assert_close(in_parts, together, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("bundle", "small", "backend"),
    [("infosam", False, "eager"), ("blosam", False, "aot_eager"), ("lora", True, "aot_eager")],
)
def test_a_compiled_run_equals_the_plain_one(phantoms, tmp_path, monkeypatch, bundle, small, backend):
    """What is recorded of the network, without the minute that making machine code of it takes.

    The eager backend records no gradients, which takes three times as long again with InfoSAM's network and teacher.
    """
    graphs = []

    def record(graph, examples):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, examples)

    plain = losses_of(bundle, phantoms, tmp_path, **PLAIN)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=record))
    monkeypatch.setattr("shutil.which", lambda name, **_: name)  # a recording takes no compiler
    compiled = losses_of(bundle, phantoms, tmp_path / "compiled", compile=True, low_memory=small, **PLAIN)
    assert graphs
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-4)


def test_a_compiler_that_is_missing_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "")
    knobs = resolve_knobs("lora", sets={"compile": True})
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler .*: install g\+\+, or leave it out"):
        compiles(knobs, torch.device("cpu"))
    assert not compiles(resolve_knobs("lora"), torch.device("cpu"))


def test_graphs_are_for_one_gpu_and_whole_steps(monkeypatch):
    graphs, parts = (
        resolve_knobs("blosam", sets={"compile": "graphs", **more}) for more in ({}, {"slices_at_once": 1})
    )
    assert compiles(graphs, torch.device("cuda"))
    with pytest.raises(InputError, match=r"leave one of them out"):
        compiles(parts, torch.device("cuda"))
    with pytest.raises(InputError, match=r"for one GPU alone"):
        compiles(graphs, torch.device("cpu"))
    monkeypatch.setattr(engine, "world_size", lambda: 2)
    with pytest.raises(InputError, match=r"for one GPU alone"):
        compiles(graphs, torch.device("cuda"))


@pytest.fixture
def recorders(monkeypatch):
    """Recorders of the trainings with compile=graphs, which compile nothing and stay on the processor here."""
    made = []

    def recorder(device):
        made.append(TapeRecorder())
        return made[-1]

    monkeypatch.setattr(step_graph, "CudaRecorder", recorder)
    monkeypatch.setattr(torch, "compile", lambda network: network)
    monkeypatch.setattr(engine, "compiles", lambda knobs, _: bool(knobs.compile))
    return made


@pytest.mark.parametrize("bundle", ["blosam", "samparser"])
def test_a_recorded_run_equals_the_plain_one(phantoms, tmp_path, recorders, bundle):
    plain = losses_of(bundle, phantoms, tmp_path, **PLAIN)
    recorded = losses_of(bundle, phantoms, tmp_path / "recorded", compile="graphs", **PLAIN)
    assert [each.recordings for each in recorders] == [1]
    torch.testing.assert_close(recorded, plain, rtol=1e-4, atol=1e-5)


def test_a_recorded_run_goes_on_where_it_was_stopped(phantoms, tmp_path, recorders):
    """In the middle of its second epoch, after a validation."""
    sets = {"compile": "graphs", "image_size": 32, "epochs": 2, "batch_size": 2, "min_steps": 2, "val_interval": 1}
    knobs = resolve_knobs("decoder", sets={**sets, "save_minutes": 0.0}).model_dump()

    def train(folder, until=None, resume=False):
        values = {f"knobs#{name}": value for name, value in knobs.items()}
        values |= {"dataset_dir": str(phantoms), "output_dir": str(folder), "device": torch.device("cpu")}
        flow = workflow("decoder", "train", {**values, "resume": resume})
        if until is not None:
            flow.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=until), stop)
        flow.run()
        return load(folder / "models/model.pt")

    def stop(_):
        raise RuntimeError("stopped")

    whole = train(tmp_path / "whole")
    steps = load(tmp_path / "whole/state.pt")["iteration"]
    assert steps // 2 > WARM_UP
    with pytest.raises(RuntimeError, match="run"):
        train(tmp_path / "parts", until=steps // 2 + 2)
    torch.testing.assert_close(train(tmp_path / "parts", resume=True), whole, rtol=0, atol=0)
    assert [each.recordings for each in recorders] == [1, 1, 1]


@pytest.mark.parametrize("bundle", bundle_names())
def test_no_gradient_outlives_its_step(bundle):
    """The next one would be added to it."""
    assert read_config(bundle, "train")["train"]["trainer"]["optim_set_to_none"] is True
