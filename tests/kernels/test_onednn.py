"""Layers with their GELU in one pass give what they give one after the other."""

import copy

import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Block

from medsam_adapt.kernels import onednn
from medsam_adapt.kernels.blocks import EncoderBlock
from medsam_adapt.kernels.conv_bands import AttentionByRows, MLPByParts
from medsam_adapt.methods.lora import LoRAQueryValue
from medsam_adapt.methods.samparser import reconstruct
from medsam_adapt.networks.tiny_vit import NormMLP, WindowAttention

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=[True, False], ids=["onednn", "plain"])
def enabled(request):
    with torch.backends.mkldnn.flags(enabled=request.param):
        yield request.param


@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@torch.no_grad()
def test_linear_layers(enabled, gelu, biased):
    tokens, weight = torch.randn(3, 7, 16), torch.randn(24, 16)
    bias = torch.randn(24) if biased else None
    expected = F.linear(tokens, weight, bias)
    torch.testing.assert_close(
        onednn.linear(tokens, weight, bias, gelu), F.gelu(expected) if gelu else expected, **CLOSE
    )


@pytest.mark.parametrize("count", [1, 3])
@torch.no_grad()
def test_products_of_matrices(enabled, count):
    left, right = torch.randn(count, 7, 16), torch.randn(count, 16, 24).transpose(1, 2)
    torch.testing.assert_close(onednn.product(left, right), left @ right.transpose(1, 2), **CLOSE)


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_convolutions_of_each_channel(enabled, stride):
    features, weight, bias = torch.randn(2, 8, 10, 6), torch.randn(6, 1, 3, 3), torch.randn(6)
    expected = F.gelu(F.conv2d(features.permute(0, 3, 1, 2), weight, bias, stride, (0, 1), groups=6))
    found = onednn.depthwise_gelu(features, weight, bias, stride, (0, 1))
    torch.testing.assert_close(found, expected.permute(0, 2, 3, 1), **CLOSE)


@torch.no_grad()
def test_what_is_in_the_place_of_a_linear_layer_is_asked():
    layer = torch.nn.Linear(16, 48)
    adapted = LoRAQueryValue(torch.nn.Linear(16, 48), 2)
    adapted.b_q.weight.normal_()
    parser = reconstruct(torch.nn.Linear(16, 48))
    parser.singular_values.mul_(2)
    tokens = torch.randn(5, 16)
    for each in (layer, adapted, parser):
        torch.testing.assert_close(onednn.by_layer(tokens, each, gelu=True), F.gelu(each(tokens)), **CLOSE)


@pytest.mark.parametrize("window", [0, 4])
def test_blocks_of_sam_are_the_plain_ones_and_have_their_gradients(enabled, window):
    plain = Block(16, 2, use_rel_pos=True, window_size=window, input_size=(6, 10))
    tokens = torch.randn(2, 6, 10, 16)
    fast, results, gradients = EncoderBlock(copy.deepcopy(plain)), [], []
    for each in (plain, fast):
        with torch.no_grad():
            results.append(each(tokens))
        each(tokens).square().mean().backward()
        gradients.append(each.mlp.lin1.weight.grad)
    torch.testing.assert_close(*results, **CLOSE)
    torch.testing.assert_close(*gradients, **CLOSE)


def test_blocks_with_adapters_use_them(enabled):
    block = EncoderBlock(Block(16, 2, use_rel_pos=True, input_size=(6, 10)))
    tokens = torch.randn(1, 6, 10, 16)
    with torch.no_grad():
        before = block(tokens)
    block.attn.qkv = LoRAQueryValue(block.attn.qkv, 2)
    block.attn.qkv.b_q.weight.data.normal_()
    with torch.no_grad():
        found = block(tokens)
    torch.testing.assert_close(found, block(tokens).detach(), **CLOSE)
    assert (found - before).abs().max() > 1e-3


def test_attention_and_mlp_are_the_plain_ones_and_have_their_gradients():
    attention, mlp = WindowAttention(16, 2, 4), NormMLP(16)
    torch.nn.init.normal_(attention.attention_biases)
    tokens = torch.randn(2, 6, 10, 16)
    for plain, fast in ((attention, AttentionByRows(attention)), (mlp, MLPByParts(mlp))):
        with torch.no_grad():
            torch.testing.assert_close(fast(tokens), plain(tokens), **CLOSE)
        gradients = []
        for each in (plain, fast):
            each.zero_grad()
            each(tokens).square().mean().backward()
            gradients.append(next(each.parameters()).grad.clone())
        torch.testing.assert_close(*gradients, **CLOSE)
