"""Every adapter on SAM 2's Hiera, whose blocks differ in width by stage and whose queries are pooled between stages."""

import pytest
import torch

from medsam_adapt.methods import (
    AdaptFormer,
    CobotAdaptFormer,
    CobotLoRA,
    DecoderLoRA,
    InformationDistillation,
    LoRA,
    Parser,
    SeriesAdapters,
)
from medsam_adapt.networks import DecoderOnly, attach_adapter, build_segmenter, count_trainable
from medsam_adapt.networks.build import build_teacher
from medsam_adapt.weights.backbones import VARIANTS
from tests.methods.method_tester import AdapterTester, add_noise, logits_of
from tests.small_networks import SAM2, register

WIDTHS = {"sam2_hiera_tiny": (96, 192, 384, 768), "sam2_hiera_base_plus": (112, 224, 448, 896)}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    register(monkeypatch)


class HieraTester(AdapterTester):
    backbone = SAM2


class TestDecoderOnly(HieraTester):
    def build(self):
        return DecoderOnly()


class TestDecoderLoRA(HieraTester):
    def build(self):
        return DecoderLoRA()


class TestLoRA(HieraTester):
    def build(self):
        return LoRA()


class TestCobotLoRA(HieraTester):
    def build(self):
        return CobotLoRA()


class TestAdaptFormer(HieraTester):
    def build(self):
        return AdaptFormer()


class TestCobotAdaptFormer(HieraTester):
    def build(self):
        return CobotAdaptFormer()


class TestSeriesAdapters(HieraTester):
    def build(self):
        return SeriesAdapters()


class TestParser(HieraTester):
    start_tolerance = 1e-4

    def build(self):
        return Parser()


class TestParserOfAllLayers(HieraTester):
    start_tolerance = 1e-3

    def build(self):
        return Parser("all")


def test_a_detail_branch_and_a_prompt_are_trained():
    segmenter = build_segmenter(SAM2, 64, 2, DecoderOnly(), checkpoint="random", learn_prompt=True, detail=8)
    segmenter(torch.rand(2, 3, 64, 64) * 255).square().mean().backward()
    assert segmenter.sam.prompt_encoder.no_mask_embed.weight.grad.any()
    assert segmenter.sam.detail.head.weight.grad.any()


@pytest.mark.parametrize("boxes", [None, torch.tensor([[5.0, 6, 40, 50], [8, 8, 60, 30]])])
def test_it_teaches_itself(boxes):
    """Teacher and student see the embedding itself, not the finer features beside it."""
    image = torch.rand(2, 3, 64, 64) * 255
    teacher = build_teacher(SAM2, 64, "random")
    student = add_noise(build_segmenter(SAM2, 64, 1, SeriesAdapters(), "none" if boxes is None else "box", "random"))
    embedding = teacher.encode(image)
    known = teacher.decode(embedding, boxes=boxes)
    drawn = student.predict(image, boxes=boxes)
    assert known.image_embedding.shape == drawn.image_embedding.shape == (2, 64, 4, 4)
    distillation = InformationDistillation(64)
    loss = distillation(
        known.image_embedding, known.mask_tokens[:, :1], drawn.image_embedding, drawn.mask_tokens[:, :1]
    )
    loss.backward()
    assert student.sam.image_encoder.blocks[3].attn.adapter.up.weight.grad.any()


@pytest.mark.parametrize("name", WIDTHS)
def test_what_is_trained_in_the_encoder_is_counted_by_stage(name):
    depths, widths = VARIANTS[name].depths, WIDTHS[name]
    blocks = [(width, width) for width, depth in zip(widths, depths, strict=True) for _ in range(depth)]
    starts = [sum(depths[:stage]) for stage in (1, 2, 3)]
    for stage, start in enumerate(starts):
        blocks[start] = widths[stage], widths[stage + 1]
    lora = sum(2 * 4 * (width + out) for width, out in blocks)
    units = len(blocks)
    expected = {
        DecoderOnly(): 0,
        LoRA(4): lora,
        CobotLoRA(4): lora + 2 * units * 4 + 4 * units**2 + 2 * units * 4 + 2 * units * 4,
        AdaptFormer(16): sum(2 * out + (out + 1) * 16 + 17 * out for _, out in blocks),
        SeriesAdapters(0.25, 2): sum(
            2 * (2 * out * (out // 4) + out // 4 + out) + 2 * width + 2 * out for width, out in blocks[2:]
        ),
        Parser(): sum(min(256, width) for width in widths),
    }
    for adapter, count in expected.items():
        with torch.device("meta"):
            segmenter = attach_adapter(build_segmenter_of(name), adapter)
        assert count_trainable(segmenter)["encoder"] == count, type(adapter).__name__


def build_segmenter_of(name):
    from medsam_adapt.networks import Segmenter, build_sam

    return Segmenter(build_sam(name, 64, 2, checkpoint="random"))


def test_queries_are_adapted_before_they_are_pooled():
    """Where a stage begins, LoRA on q changes the result as the merged weights do."""
    segmenter = attach_adapter(build_segmenter_of(SAM2), LoRA()).eval()
    block = segmenter.sam.image_encoder.blocks[1]
    assert block.starts_stage
    with torch.no_grad():
        block.attn.qkv.b_q.weight.normal_()
        before = logits_of(segmenter)
        segmenter.adapter.merge(segmenter.sam)
        torch.testing.assert_close(logits_of(segmenter), before, rtol=1e-4, atol=1e-4)
