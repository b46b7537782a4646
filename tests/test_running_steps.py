"""Ways to run a training step that must not change what it does: few slices at once, and compiled."""

import functools

import pytest
import torch

from medsam_adapt import engine
from medsam_adapt.bundle import bundle_names, read_config, resolve_knobs
from medsam_adapt.engine import compile_options, compiles
from medsam_adapt.errors import InputError
from tests.test_frozen_work import STEPS, losses_of

BUNDLES = ["samcobot", "infosam", "blosam"]
PLAIN = {"prompt": "none", "cache_frozen": "off", "batch_size": 3}


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_run_of_few_slices_at_once_equals_that_of_all(phantoms, tmp_path, bundle):
    together = losses_of(bundle, phantoms, tmp_path, **PLAIN)
    in_parts = losses_of(bundle, phantoms, tmp_path / "parts", slices_at_once=2, **PLAIN)
    assert len(together) == STEPS
    torch.testing.assert_close(in_parts, together, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("bundle", "small"), [("infosam", False), ("blosam", False), ("lora", True)])
def test_a_compiled_run_equals_the_plain_one(phantoms, tmp_path, monkeypatch, bundle, small):
    """What is recorded of the network, without the minute that making machine code of it takes."""
    graphs = []

    def record(graph, examples):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, examples)

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
    assert compile_options(graphs) == {"mode": "reduce-overhead"}
    assert compile_options(resolve_knobs("blosam", sets={"compile": True})) == {}
    assert compiles(graphs, torch.device("cuda"))
    with pytest.raises(InputError, match=r"leave one of them out"):
        compiles(parts, torch.device("cuda"))
    with pytest.raises(InputError, match=r"for one GPU alone"):
        compiles(graphs, torch.device("cpu"))
    monkeypatch.setattr(engine, "processes", lambda: 2)
    with pytest.raises(InputError, match=r"for one GPU alone"):
        compiles(graphs, torch.device("cuda"))


def test_options_reach_the_compiler(phantoms, tmp_path, monkeypatch):
    """Those of the mode that records CUDA graphs, here on a processor."""
    told = []

    def compile_as(network, **options):
        told.append(options)
        return network

    monkeypatch.setattr(torch, "compile", compile_as)
    monkeypatch.setattr(engine, "compiles", lambda *_: True)
    assert len(losses_of("blosam", phantoms, tmp_path, compile="graphs", **PLAIN)) == STEPS
    assert told == [{"mode": "reduce-overhead"}]


@pytest.mark.parametrize("bundle", bundle_names())
def test_no_gradient_outlives_its_step(bundle):
    """The next step of a CUDA graph writes over it."""
    assert read_config(bundle, "train")["train"]["trainer"]["optim_set_to_none"] is True
