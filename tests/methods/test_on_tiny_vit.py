"""Every adapter on the TinyViT of LiteMedSAM, whose blocks differ in width by stage."""

import pytest
import torch

from medsam_adapt.core.errors import InputError
from medsam_adapt.methods import (
    AdaptFormer,
    CobotAdaptFormer,
    CobotLoRA,
    DecoderLoRA,
    LoRA,
    Parser,
    SeriesAdapters,
)
from medsam_adapt.networks import DecoderOnly, attach_adapter, count_trainable
from medsam_adapt.networks.tiny_vit import DEPTHS, WIDTHS
from tests.methods.method_tester import AdapterTester, add_noise, build_segmenter, image_for
from tests.small_networks import TINY_VIT

BLOCKS = [width for width, depth in zip(WIDTHS[1:], DEPTHS[1:], strict=True) for _ in range(depth)]


class TinyViTTester(AdapterTester):
    backbone = TINY_VIT


class TestDecoderOnly(TinyViTTester):
    def build(self):
        return DecoderOnly()


class TestDecoderLoRA(TinyViTTester):
    start_tolerance = 1e-5  # a decoder without LoRA multiplies in another order (kernels/mask_decoder.py)

    def build(self):
        return DecoderLoRA()


class TestLoRA(TinyViTTester):
    def build(self):
        return LoRA()


class TestCobotLoRA(TinyViTTester):
    def build(self):
        return CobotLoRA()


class TestAdaptFormer(TinyViTTester):
    def build(self):
        return AdaptFormer()


class TestCobotAdaptFormer(TinyViTTester):
    def build(self):
        return CobotAdaptFormer()


class TestSeriesAdapters(TinyViTTester):
    def build(self):
        return SeriesAdapters()


class TestParser(TinyViTTester):
    start_tolerance = 1e-4

    def build(self):
        return Parser()


class TestParserOfAllLayers(TinyViTTester):
    start_tolerance = 1e-3

    def build(self):
        return Parser("all")


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (DecoderOnly(), 0),
        (LoRA(4), sum(4 * 4 * width for width in BLOCKS)),
        (CobotLoRA(4), sum(4 * 4 * width for width in BLOCKS) + 2 * 10 * 4 + 4 * 10**2 + 2 * 10 * 4 + 2 * 10 * 4),
        (AdaptFormer(16), sum(2 * width + (width + 1) * 16 + 17 * width for width in BLOCKS)),
        (Parser(), 512),
        (
            SeriesAdapters(0.25, 2),
            sum(2 * (2 * width * (width // 4) + width // 4 + width) + 4 * width for width in BLOCKS[2:]),
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_what_is_trained_in_the_encoder_is_counted_by_stage(adapter, expected):
    with torch.device("meta"):
        segmenter = attach_adapter(build_segmenter(backbone="lite_medsam"), adapter)
    assert count_trainable(segmenter)["encoder"] == expected


def test_increments_reach_query_and_value_of_every_head_and_no_key():
    segmenter = attach_adapter(build_segmenter(backbone="lite_medsam"), LoRA())
    layer = segmenter.sam.image_encoder.blocks[3].attn.qkv
    tokens = torch.randn(5, layer.qkv.in_features)
    plain = layer(tokens).unflatten(-1, (layer.heads, 3, -1))
    changed = add_noise(segmenter).sam.image_encoder.blocks[3].attn.qkv(tokens).unflatten(-1, (layer.heads, 3, -1))
    differs = (changed - plain).abs().amax(dim=(0, 3)) > 1e-6
    assert differs.tolist() == [[True, False, True]] * layer.heads


def test_batch_normalisation_is_frozen_when_the_whole_encoder_is_trained():
    segmenter = attach_adapter(build_segmenter(backbone="lite_medsam"), DecoderOnly(), tune_encoder=True).train()
    before = {name: value.clone() for name, value in segmenter.state_dict().items() if ".bn." in name}
    optimizer = torch.optim.SGD([each for each in segmenter.parameters() if each.requires_grad], lr=0.1)
    segmenter(image_for(segmenter)).square().mean().backward()
    optimizer.step()
    encoder = segmenter.sam.image_encoder
    assert encoder.patch_embed.seq[0].c.weight.grad.any()
    assert before
    assert all(torch.equal(value, segmenter.state_dict()[name]) for name, value in before.items())


def test_an_image_size_that_is_no_multiple_of_32_is_refused():
    from medsam_adapt.networks import build_sam

    with pytest.raises(InputError, match="48 is not a positive multiple of 32"):
        build_sam("lite_medsam", 48)
