"""Ways to run a training step that must not change what it does: few slices at once, and compiled."""

import functools
from dataclasses import replace

import pytest
import torch
from monai.engines import SupervisedTrainer

from medsam_adapt.bundle.catalogue import read_config, resolve_knobs
from medsam_adapt.bundle.contents import bundle_names
from medsam_adapt.core.errors import InputError
from medsam_adapt.training.setup import compiles
from medsam_adapt.weights.backbones import VARIANTS
from tests.conftest import ship_nano
from tests.feature_cache.test_frozen_work import STEPS, losses_of

pytestmark = pytest.mark.usefixtures("few_blocks")
BUNDLES = ["samcobot", "infosam", "blosam"]
PLAIN = {"prompt": "none", "cache_frozen": "off", "batch_size": 3}
OWN = {"infosam": {"first_block": 1}}  # of three blocks: one without windows and one with them are adapted


@pytest.fixture(scope="module")
def few_blocks(tiny_nano, tmp_path_factory):
    """An encoder of blocks with windows and one without: recording more of them takes longer and runs no other code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "vit_nano", replace(VARIANTS["vit_nano"], depth=3, global_attention=(1,)))
        ship_nano(tmp_path_factory.mktemp("few_blocks") / "package", patch)
        yield


@pytest.fixture(scope="module")
def plain_losses(few_blocks, phantoms, tmp_path_factory):
    """Losses of a bundle's usual training, which is run once."""

    @functools.cache
    def losses(bundle):
        return losses_of(bundle, phantoms, tmp_path_factory.mktemp(bundle), **PLAIN, **OWN.get(bundle, {}))

    return losses


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_run_of_few_slices_at_once_equals_that_of_all(phantoms, plain_losses, tmp_path, bundle):
    together = plain_losses(bundle)
    in_parts = losses_of(bundle, phantoms, tmp_path / "parts", slices_at_once=2, **PLAIN, **OWN.get(bundle, {}))
    assert len(together) == STEPS
    torch.testing.assert_close(in_parts, together, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("bundle", "small", "backend"),
    [("infosam", False, "eager"), ("blosam", False, "aot_eager"), ("lora", True, "aot_eager")],
)
def test_a_compiled_run_equals_the_plain_one(phantoms, plain_losses, tmp_path, monkeypatch, bundle, small, backend):
    """What is recorded of the network, without the minute that making machine code of it takes.

    The eager backend records no gradients, which takes three times as long again with InfoSAM's network and teacher.
    """
    graphs = []

    def record(graph, examples):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, examples)

    plain = plain_losses(bundle)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=record))
    monkeypatch.setattr("shutil.which", lambda name, **_: name)  # a recording takes no compiler
    ways = {"compile": True, "low_memory": small}
    compiled = losses_of(bundle, phantoms, tmp_path / "compiled", **ways, **PLAIN, **OWN.get(bundle, {}))
    assert graphs
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-4)


def test_a_compiler_that_is_missing_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "")
    knobs = resolve_knobs("lora", sets={"compile": True})
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler .*\. Install g\+\+, or leave it out"):
        compiles(knobs, torch.device("cpu"))
    assert not compiles(resolve_knobs("lora"), torch.device("cpu"))


@pytest.mark.parametrize("bundle", bundle_names())
def test_every_bundle_takes_the_trainer_tested_here(bundle):
    trainer = read_config(bundle, "train")["train"]["trainer"]
    assert trainer["_target_"] == "medsam_adapt.training.trainer.build_trainer"


def test_no_gradient_outlives_its_step(phantoms, tmp_path, monkeypatch):
    """The next one would be added to it."""
    built = []

    class Noted(SupervisedTrainer):
        def __init__(self, **arguments):
            built.append(arguments["optim_set_to_none"])
            super().__init__(**arguments)

    monkeypatch.setattr("medsam_adapt.training.trainer.SupervisedTrainer", Noted)
    losses_of("lora", phantoms, tmp_path, **PLAIN)
    assert built == [True]
