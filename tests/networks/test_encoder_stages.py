import pytest
import torch
from torch import nn

from medsam_adapt.methods import AdaptFormer, CobotAdaptFormer, CobotLoRA, DecoderLoRA, LoRA, Parser, SeriesAdapters
from medsam_adapt.networks import DecoderOnly, attach_adapter
from medsam_adapt.networks.encoder_stages import features_shape, frozen_stages, stage_count, stages_sha256
from tests.methods.method_tester import IMAGE, add_noise, build_segmenter

BLOCKS = 6
WHOLE = BLOCKS + 2


@pytest.mark.parametrize(
    ("adapter", "stages"),
    [
        (DecoderOnly(), WHOLE),
        (DecoderLoRA(), WHOLE),
        (Parser(), WHOLE - 1),  # all but the neck
        (SeriesAdapters(), 3),  # patch embedding and blocks 0 and 1
        (SeriesAdapters(first_block=4), 5),
        (LoRA(), 1),
        (AdaptFormer(), 1),
        (CobotLoRA(), 1),
        (CobotAdaptFormer(), 1),
        (Parser("all"), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, object) and not isinstance(value, int) else str(value),
)
def test_the_first_trained_layer_decides(adapter, stages):
    segmenter = add_noise(attach_adapter(build_segmenter(), adapter)).eval()
    assert segmenter.frozen_stages == stages
    features = segmenter.frozen_features(IMAGE)
    if stages < 2:
        assert features is None
        return
    encoder = segmenter.sam.image_encoder
    assert features.shape == (2, *features_shape(encoder, stages))
    assert not features.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(segmenter(None, features=features), segmenter(IMAGE), rtol=0, atol=0)


def test_nothing_is_frozen_where_the_encoder_is_tuned():
    segmenter = attach_adapter(build_segmenter(), DecoderOnly(), tune_encoder=True)
    assert segmenter.frozen_stages == 0
    assert segmenter.frozen_features(IMAGE) is None


def test_gradients_are_those_of_the_whole_network():
    segmenter = add_noise(attach_adapter(build_segmenter(), SeriesAdapters()))
    gradients = []
    for given in ({"image": IMAGE}, {"image": None, "features": segmenter.frozen_features(IMAGE)}):
        segmenter.zero_grad()
        segmenter(**given).square().mean().backward()
        gradients.append([tensor.grad.clone() for tensor in segmenter.parameters() if tensor.grad is not None])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm2d(4)])
def test_a_block_that_differs_in_training_counts_as_trained(layer):
    encoder = attach_adapter(build_segmenter(), DecoderOnly()).sam.image_encoder
    encoder.blocks[2].mlp.add_module("extra", layer.requires_grad_(False))
    assert frozen_stages(encoder) == 3


def test_the_hash_covers_what_is_frozen_and_nothing_else():
    encoder = attach_adapter(build_segmenter(), SeriesAdapters()).sam.image_encoder
    before = stages_sha256(encoder, 3)
    with torch.no_grad():
        encoder.blocks[2].norm1.weight += 1
    assert stages_sha256(encoder, 3) == before
    assert stages_sha256(encoder, 2) != before
    for tensor in (encoder.pos_embed, encoder.patch_embed.proj.bias, encoder.blocks[1].attn.rel_pos_h):
        kept = tensor.detach().clone()
        tensor.data += 1e-6
        assert stages_sha256(encoder, 3) != before
        tensor.data.copy_(kept)
    encoder.blocks[0].window_size += 1
    assert stages_sha256(encoder, 3) != before
    assert stage_count(encoder) == WHOLE
