"""A frozen layer with low-rank increments, as one product, equals the sum of the layer and its increments."""

import pytest
import torch
from torch import nn

from medsam_adapt.kernels import linear_onednn as products
from medsam_adapt.kernels import low_rank
from medsam_adapt.kernels.linear_onednn import TokenLinear
from medsam_adapt.kernels.low_rank import query_value_product, with_increments

WIDTH, RANK = 24, 3


@pytest.fixture
def given(monkeypatch):
    """A frozen layer, tokens, and D and U of q and of v, none of them zero."""
    torch.manual_seed(0)
    monkeypatch.setattr(products, "_WORTHWHILE", 0)
    layer = TokenLinear(nn.Linear(WIDTH, 3 * WIDTH)).requires_grad_(False)
    pairs = [(torch.randn(RANK, WIDTH), torch.randn(WIDTH, RANK)) for _ in range(2)]
    inputs = [torch.randn(2, 4, 5, WIDTH), *pairs[0], *pairs[1]]
    return layer, [each.requires_grad_() for each in inputs]


def plain(tokens, layer, query, value):
    """[q | k | v], written out."""
    q, k, v = nn.functional.linear(tokens, layer.weight, layer.bias).chunk(3, dim=-1)
    return torch.cat([q + tokens @ query[0].T @ query[1].T, k, v + tokens @ value[0].T @ value[1].T], dim=-1)


def slopes(function, layer, inputs, twice):
    tokens, *increments = inputs
    result = function(tokens, layer, increments[:2], increments[2:])
    weights = torch.linspace(-1, 1, result.numel()).reshape(result.shape)
    first = torch.autograd.grad((result.square() * weights).sum(), inputs, create_graph=twice)
    second = torch.autograd.grad(sum(each.square().sum() for each in first), inputs) if twice else ()
    return [result, *first, *second]


@pytest.mark.parametrize("twice", [False, True], ids=["derived", "derived twice"])
def test_it_is_the_sum(given, twice, monkeypatch):
    layer, inputs = given
    asked, apply = [], low_rank._QueryValueProduct.apply
    monkeypatch.setattr(low_rank._QueryValueProduct, "apply", lambda *each: asked.append(each) or apply(*each))
    found, expected = (slopes(each, layer, inputs, twice) for each in (query_value_product, plain))
    assert len(asked) == 1
    assert len(found) == (11 if twice else 6)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_only_what_is_wanted_has_a_gradient(given):
    """Tokens of frozen features have none, and neither has the frozen layer."""
    layer, inputs = given
    inputs[0] = inputs[0].detach()
    result = query_value_product(inputs[0], layer, inputs[1:3], inputs[3:])
    result.square().sum().backward()
    assert inputs[0].grad is None
    assert layer.weight.grad is None
    assert all(each.grad.any() for each in inputs[1:])
    with torch.no_grad():
        again = query_value_product(inputs[0], layer, inputs[1:3], inputs[3:])
    assert torch.equal(again, result)


@pytest.mark.parametrize("reason", ["trained layer", "float64", "autocast"])
def test_elsewhere_it_is_the_sum_itself(given, reason, monkeypatch):
    layer, inputs = given
    monkeypatch.setattr(low_rank._QueryValueProduct, "apply", None)  # what calls it fails
    layer.requires_grad_(reason == "trained layer")
    if reason == "float64":
        layer, inputs = layer.double(), [each.detach().double().requires_grad_() for each in inputs]
    expected = plain(inputs[0], layer, inputs[1:3], inputs[3:])
    with torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"):
        found = query_value_product(inputs[0], layer, inputs[1:3], inputs[3:])
    rough = 0.05 * float(expected.detach().abs().max()) if reason == "autocast" else 1e-5
    torch.testing.assert_close(found.to(expected.dtype), expected, rtol=0, atol=rough)
    found.float().square().sum().backward()
    assert all(each.grad.any() for each in inputs)
    assert (layer.weight.grad is not None) == (reason == "trained layer")


def test_the_merged_weight_leaves_the_layer_alone(given):
    layer, inputs = given
    before = layer.weight.clone()
    merged = with_increments(layer.weight, inputs[1:3], inputs[3:])
    assert torch.equal(layer.weight, before)
    assert torch.equal(merged[WIDTH : 2 * WIDTH], before[WIDTH : 2 * WIDTH])
    found = nn.functional.linear(inputs[0], merged, layer.bias)
    torch.testing.assert_close(found, plain(inputs[0], layer, inputs[1:3], inputs[3:]), rtol=0, atol=1e-4)


def as_on_a_gpu(tokens, layer, query, value):
    return low_rank._QueryValueSum.apply(tokens, layer.weight, layer.bias, *query, *value)


@pytest.mark.parametrize("twice", [False, True], ids=["derived", "derived twice"])
def test_a_gpus_way_is_the_sum_too(given, twice):
    layer, inputs = given
    found, expected = (slopes(each, layer, inputs, twice) for each in (as_on_a_gpu, plain))
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_a_gpus_way_under_autocast(given):
    """In half the width inside, with gradients of the width of what they belong to."""
    layer, inputs = given
    with torch.autocast("cpu", torch.bfloat16):
        result = as_on_a_gpu(inputs[0], layer, inputs[1:3], inputs[3:])
    expected = plain(inputs[0], layer, inputs[1:3], inputs[3:])
    assert result.dtype == torch.bfloat16
    assert (result - expected).abs().max() <= 0.02 * expected.abs().max()
    along = torch.randn_like(expected)
    found = torch.autograd.grad(result, inputs, along.bfloat16())
    for mine, theirs in zip(found, torch.autograd.grad(expected, inputs, along), strict=True):
        assert mine.dtype == theirs.dtype
        assert (mine - theirs).abs().max() <= 0.03 * theirs.abs().max()
