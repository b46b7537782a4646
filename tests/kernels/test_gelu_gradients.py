"""Feed-forward layers that keep the gradients of their GELU in 16 bits: near the exact ones, in no second product."""

import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling.common import MLPBlock
from torch import nn

from medsam_adapt.core.precision import Running
from medsam_adapt.kernels import feed_forward, gelu_gradients, onednn
from medsam_adapt.kernels.feed_forward import FeedForward
from medsam_adapt.methods import AdaptFormer, CobotAdaptFormer, CobotLoRA, LoRA, SeriesAdapters
from medsam_adapt.networks.adapter import Adapter, train_decoder
from medsam_adapt.networks.encoder_stages import run_stages
from tests.core.test_precision import network, step

ADAPTERS = pytest.mark.parametrize(
    "adapter",
    [LoRA(), AdaptFormer(), SeriesAdapters(), CobotLoRA(), CobotAdaptFormer()],
    ids=lambda each: type(each).__name__,
)


@pytest.fixture(autouse=True)
def small_is_worth_it(monkeypatch):
    monkeypatch.setattr(gelu_gradients, "_WORTHWHILE", 0)
    monkeypatch.setattr(feed_forward, "_TOKENS", 24)
    monkeypatch.setattr(feed_forward, "_FEATURES", 0)


@pytest.fixture
def multiplied(monkeypatch):
    """How often each weight was multiplied, by its place in memory and its shape."""
    counts, plain = {}, F.linear

    def count(weight):
        counts[weight.data_ptr(), weight.shape] = counts.get((weight.data_ptr(), weight.shape), 0) + 1

    monkeypatch.setattr(onednn, "_HAS_OPERATORS", False)  # before the first adapter they would multiply uncounted
    monkeypatch.setattr(F, "linear", lambda *given: count(given[1]) or plain(*given))
    return counts


def layers() -> FeedForward:
    torch.manual_seed(0)
    return FeedForward(MLPBlock(8, 32)).requires_grad_(False)


def as_a_stage(layer):
    """``layer`` computed again for its gradient; the last two stages never are."""
    return lambda value: Running("fp32", low_memory=True).run([layer, lambda end: end, lambda end: end], value)


def taken(monkeypatch):
    """How often GELU gradients were written down."""
    calls, write = [], gelu_gradients._write_gelu_gradients
    monkeypatch.setattr(gelu_gradients, "_write_gelu_gradients", lambda *given: calls.append(given) or write(*given))
    return calls


def test_a_gelu_gradient_is_at_most_1e_5_off():
    hidden = torch.cat([torch.linspace(-6, 6, 100_001), torch.tensor([-1e4, -30.0, 30.0, 1e4])])
    kept = torch.empty(hidden.shape, dtype=torch.int16)
    gelu_gradients._write_gelu_gradients(hidden, kept)
    exact = hidden.double().requires_grad_()
    (exact_gradient,) = torch.autograd.grad(F.gelu(exact).sum(), exact)
    assert (kept.double() / gelu_gradients._STEPS + 0.5 - exact_gradient).abs().max() <= 1e-5


@pytest.mark.parametrize("grid", [2, 5, 8])  # 8, 50 and 128 tokens, in parts of 24
def test_result_and_gradient_are_those_of_the_layers(grid, multiplied):
    layer, tokens = layers(), torch.randn(2, grid, grid, 8, requires_grad=True)
    result, expected = as_a_stage(layer)(tokens), layer(tokens)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-6)
    along = torch.randn_like(result)
    (mine,), (theirs,) = (torch.autograd.grad(each, tokens, along) for each in (result, expected))
    assert 0 < (mine - theirs).abs().max() <= 2e-5 * theirs.abs().max()


@ADAPTERS
def test_neither_layer_is_multiplied_twice(adapter, multiplied):
    """From the second step on, also where a series adapter needs the result, as the first step finds out.

    Gradients of the whole network are near those without it.
    """
    plain, small = network(adapter), network(adapter, low_memory=True)
    small.load_state_dict(plain.state_dict())
    found = []
    for segmenter in (plain, small):
        encoder = segmenter.sam.image_encoder
        weights = [each for name, each in encoder.named_parameters() if name.endswith(("lin1.weight", "lin2.weight"))]
        step(segmenter)
        multiplied.clear()
        found.append(step(segmenter))
        assert len(weights) == 12
        for weight in weights:  # 128 tokens in six parts
            assert multiplied[weight.data_ptr(), weight.shape] == 6
    (loss, expected), (own_loss, gradients) = found
    torch.testing.assert_close(own_loss, loss)
    assert list(gradients) == list(expected)
    most = max(float(each.abs().max()) for each in expected.values())
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-6 * most + 2e-5 * gradient.abs().max(), name


@ADAPTERS
def test_a_gradient_that_is_derived_itself_is_exact(adapter, multiplied):
    """And may be asked for repeatedly."""
    plain, small = network(adapter).eval(), network(adapter, low_memory=True).eval()
    small.load_state_dict(plain.state_dict())
    images, found = torch.rand(1, 3, 64, 64) * 255, []
    for segmenter in (plain, small):
        weights = [each for each in segmenter.sam.image_encoder.parameters() if each.requires_grad]
        loss = segmenter.encode(images).square().mean()
        first = [torch.autograd.grad(loss, weights, retain_graph=True) for _ in range(2)]
        assert all(torch.equal(*each) for each in zip(*first, strict=True))
        exact = torch.autograd.grad(loss, weights, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in exact), weights)
        found.append([*exact, *second])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.detach().abs().max()))


class _Reading(nn.Module):
    """An adapter behind the feed-forward layers, whose gradient needs their result."""

    def __init__(self, mlp, dim):
        super().__init__()
        self.mlp, self.own = mlp, nn.Linear(dim, dim)

    def forward(self, tokens):
        return self.own(self.mlp(tokens))


class _Behind(Adapter):
    def attach(self, sam):
        for block in sam.image_encoder.blocks:
            block.mlp = _Reading(block.mlp, block.norm2.normalized_shape[0])
        train_decoder(sam)
        return sam


def test_an_adapter_behind_gets_the_true_result_whether_it_is_kept_or_not():
    """It is computed again in the first step, and kept in the second."""
    plain, small = network(_Behind()), network(_Behind(), low_memory=True)
    small.load_state_dict(plain.state_dict())
    for _ in range(2):
        (_, expected), (_, found) = step(plain), step(small)
        for name, gradient in expected.items():
            most = 2e-5 * float(gradient.abs().max())
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=most, msg=name)


@pytest.mark.parametrize("reason", ["trained", "autocast", "float64", "another activation", "a subclass", "small"])
def test_where_it_steps_aside(reason, monkeypatch):
    layer, tokens, calls = layers(), torch.randn(2, 5, 5, 8, requires_grad=True), taken(monkeypatch)
    if reason == "trained":
        layer.lin2.bias.requires_grad_()
    elif reason == "float64":
        layer, tokens = layer.double(), tokens.detach().double().requires_grad_()
    elif reason == "another activation":
        layer.act = nn.GELU("tanh")
    elif reason == "a subclass":
        layer.lin1.__class__ = type("Other", (nn.Linear,), {})
    elif reason == "small":
        monkeypatch.setattr(gelu_gradients, "_WORTHWHILE", layer.lin1.weight.numel() + 1)
    exact = copy.deepcopy(layer)
    with torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"):
        results = [each(tokens) for each in (as_a_stage(layer), exact)]
    assert not calls
    (mine,), (theirs,) = (torch.autograd.grad(each.square().sum(), tokens) for each in results)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("low_memory", [False, True])
def test_without_a_gradient_or_low_memory_nothing_is_written_down(low_memory, monkeypatch):
    calls, segmenter = taken(monkeypatch), network(LoRA(), low_memory=low_memory)
    encoder, images = segmenter.sam.image_encoder, torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        run_stages(encoder, images)
    assert not calls
    run_stages(encoder, images)
    assert bool(calls) == low_memory


def test_gelu_gradients_go_with_the_gradient_of_their_layer(monkeypatch):
    """Not only with the whole graph."""
    kept, write, left = [], gelu_gradients._write_gelu_gradients, []
    monkeypatch.setattr(
        gelu_gradients,
        "_write_gelu_gradients",
        lambda *given: kept.append(weakref.ref(given[1]._base)) or write(*given),
    )
    layer, tokens = layers(), torch.randn(2, 5, 5, 8, requires_grad=True)
    inside = as_a_stage(layer)(tokens)
    inside.register_hook(lambda grad: left.append(sum(each() is not None for each in kept)))
    result = as_a_stage(layer)(inside)
    assert all(each() is not None for each in kept)
    result.sum().backward()
    assert left == [3]  # of the layer below, in three parts, those of the one above being gone
    assert not any(each() is not None for each in kept)


def test_slices_one_after_the_other_keep_no_gelu_gradients(monkeypatch):
    """Each of them would keep its own until the gradient of the whole batch."""
    calls = taken(monkeypatch)
    plain, small = network(LoRA()), network(LoRA(), low_memory=True, slices_at_once=1)
    small.load_state_dict(plain.state_dict())
    (_, expected), (_, found) = step(plain), step(small)
    assert not calls
    most = max(float(each.abs().max()) for each in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6 * most, msg=name)
