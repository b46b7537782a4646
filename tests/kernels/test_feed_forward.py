"""Feed-forward layers in parts of the tokens equal segment-anything's, and train as they do."""

import copy

import pytest
import torch
from segment_anything.modeling.common import MLPBlock

from medsam_adapt.kernels import feed_forward
from medsam_adapt.kernels.feed_forward import FeedForward


@pytest.fixture
def layers():
    torch.manual_seed(0)
    plain = MLPBlock(8, 32)
    return plain, FeedForward(copy.deepcopy(plain))


@pytest.mark.parametrize("grid", [2, 5, 8])  # 8, 50 and 128 tokens, in parts of 7
def test_parts_equal_the_whole(layers, grid, monkeypatch):
    """Without a gradient, then with one: of the tokens and, summed over the parts, of the weights."""
    plain, ours = layers
    monkeypatch.setattr(feed_forward, "_TOKENS", 7)
    monkeypatch.setattr(feed_forward, "_FEATURES", 7 * 8)
    sizes = []
    ours.lin1.register_forward_pre_hook(lambda layer, inputs: sizes.append(inputs[0].shape[0]))
    tokens = torch.randn(2, grid, grid, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), plain(tokens), atol=1e-6, rtol=1e-6)
    assert max(sizes) <= 7
    assert sum(sizes) == 2 * grid * grid
    slopes = []
    for layer in layers:
        given = tokens.clone().requires_grad_()
        slopes.append(torch.autograd.grad(layer(given).square().sum(), [given, *layer.parameters()]))
    for mine, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_names_and_gradients_are_those_of_the_plain_layers(layers):
    plain, ours = layers
    assert list(ours.state_dict()) == list(plain.state_dict())
    tokens = torch.randn(1, 3, 3, 8)
    for layer in layers:
        layer(tokens).square().sum().backward()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
