"""SAM 2's image encoder and mask decoder compute what the published implementation does, on the same weights."""

import copy

import pytest
import torch

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.precision import run_as
from medsam_adapt.networks import Segmenter, build_sam, build_segmenter
from medsam_adapt.networks.adapter import DecoderOnly
from medsam_adapt.networks.encoder_stages import features_shape, frozen_stages, run_stages, stage_count, stages_sha256
from medsam_adapt.networks.hiera import Hiera
from medsam_adapt.weights import WEIGHTS
from medsam_adapt.weights.reading import detect_variant, read_weights
from tests.small_networks import SAM2, register

TOLERANCE = 1e-4
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture
def small(monkeypatch):
    register(monkeypatch)
    return SAM2


@pytest.fixture(scope="module", params=["tiny", "base_plus"])
def published(request, tmp_path_factory):
    """The published network with random weights, its file, and the name that we have for it."""
    modules = pytest.importorskip("sam2.build_sam", reason="rf-sam-2 is not installed")
    letter = {"tiny": "t", "base_plus": "b+"}[request.param]
    reference = modules.build_sam2(
        f"configs/sam2.1/sam2.1_hiera_{letter}.yaml",
        device="cpu",
        apply_postprocessing=False,
        hydra_overrides_extra=["++model.image_size=96"],
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in reference.parameters():
            tensor += 0.02 * torch.randn(tensor.shape, generator=generator)
    path = tmp_path_factory.mktemp("sam2") / "checkpoint.pt"
    torch.save({"model": reference.state_dict()}, path)  # with memory, object pointers and all
    return reference, path, f"sam2_hiera_{request.param}"


@torch.no_grad()
def test_the_published_checkpoint_gives_the_published_masks(published):
    reference, path, name = published
    assert detect_variant(read_weights(path)).name == name
    ours = Segmenter(build_sam(name, 96, checkpoint=path), "structure").eval()
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, 96, 96, generator=generator)
    features = reference.forward_image((image - MEAN) / STD)["backbone_fpn"]
    expected = features[2] + reference.no_mem_embed.view(1, -1, 1, 1)
    encoded = ours.encode(255 * image)
    assert (ours.sam.image_encoder.split(encoded)[0] - expected).abs().max() <= TOLERANCE

    corners = torch.sort(96 * torch.rand(2, 2, 2, generator=generator), dim=1).values
    clicks = 96 * torch.rand(2, 3, 2, generator=generator)
    labels = torch.tensor([[1, 0, 1], [1, 1, 0]], dtype=torch.int)
    located = torch.cat([clicks, labels[..., None]], dim=2)
    boxes = corners.flatten(1), torch.tensor([[2, 3]] * 2, dtype=torch.int)
    for given, points in (
        ({"boxes": boxes[0]}, (corners, boxes[1])),
        ({"points": located}, (clicks, labels)),
        ({"boxes": boxes[0], "points": located}, (torch.cat([corners, clicks], 1), torch.cat([boxes[1], labels], 1))),
    ):
        sparse, dense = reference.sam_prompt_encoder(points=points, boxes=None, masks=None)
        masks, _, tokens, _ = reference.sam_mask_decoder(
            image_embeddings=expected,
            image_pe=reference.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            repeat_image=False,
            high_res_features=features[:2],
        )
        found = ours.decode(encoded, **given)
        assert (found.low_res_logits - masks).abs().max() <= TOLERANCE
        assert (found.mask_tokens[:, :1] - tokens).abs().max() <= TOLERANCE


def test_only_the_tensors_of_videos_are_left_out(published, tmp_path):
    reference, _, name = published
    extra = {**reference.state_dict(), "sam_mask_decoder.another.weight": torch.zeros(1)}
    torch.save({"model": extra}, tmp_path / "more.pt")
    with pytest.raises(InputError, match=r"1 unexpected \(mask_decoder.another.weight\)"):
        build_sam(name, 96, checkpoint=tmp_path / "more.pt")


@pytest.mark.parametrize("name", ["sam2_hiera_tiny", "sam2_hiera_base_plus"])
def test_the_backbone_is_known_from_the_weights(name):
    with torch.device("meta"):
        weights = {
            f"image_encoder.{key}": value for key, value in build_sam(name, 32).image_encoder.state_dict().items()
        }
    assert detect_variant(weights).name == name


@torch.no_grad()
def test_any_image_size_divisible_by_32(small):
    for size in (32, 96, 160):
        network = Segmenter(build_sam(small, size), "structure")
        prediction = network.predict(255 * torch.rand(1, 3, size, size), boxes=torch.tensor([[3.0, 4, 20, 30]]))
        assert prediction.logits.shape == (1, 1, size, size)
        assert prediction.low_res_logits.shape == (1, 1, size // 4, size // 4)
        assert prediction.image_embedding.shape == (1, 64, size // 16, size // 16)
    with pytest.raises(InputError, match="48 is not a positive multiple of 32"):
        build_sam(small, 48)


def test_stages_one_by_one_are_the_encoder_and_frozen_ones_are_found(small):
    encoder = build_sam(small, 64).image_encoder.requires_grad_(False)
    assert isinstance(encoder, Hiera)
    image = torch.randn(2, 3, 64, 64)
    count = stage_count(encoder)
    assert count == frozen_stages(encoder) == 1 + 8 + 1
    whole = encoder(image)
    torch.testing.assert_close(run_stages(encoder, image), whole)
    for stages in range(1, count + 1):
        features = run_stages(encoder, image, last=stages)
        assert features.shape[1:] == features_shape(encoder, stages)
        torch.testing.assert_close(run_stages(encoder, features, stages), whole)
    encoder.blocks[3].attn.qkv.weight.requires_grad_(True)
    assert frozen_stages(encoder) == 1 + 3
    before = stages_sha256(encoder, 2)
    encoder.patch_embed.pos_embed += 1
    assert stages_sha256(encoder, 2) != before


def test_low_memory_and_bf16_give_the_same_gradients_and_nearly_the_same(small):
    segmenter = build_segmenter(small, 64, 2, DecoderOnly(), checkpoint="random", tune_encoder=True)
    image = torch.rand(2, 3, 64, 64) * 255

    def gradients(**how):
        again = copy.deepcopy(segmenter)
        run_as(again.sam.image_encoder, **how)
        again(image).square().mean().backward()
        unreached = [name for name, each in again.named_parameters() if each.requires_grad and each.grad is None]
        assert unreached == []
        return again.sam.image_encoder.patch_embed.proj.weight.grad

    plain = gradients()
    torch.testing.assert_close(gradients(low_memory=True), plain, rtol=1e-4, atol=1e-7)
    assert (gradients(precision="bf16") - plain).norm() <= 0.2 * plain.norm()


def test_the_weights_are_registered_with_their_licences():
    assert {WEIGHTS[name].licence for name in ("sam2_hiera_tiny", "sam2_hiera_base_plus")} == {"Apache-2.0"}
    assert WEIGHTS["medsam2"].backbone == "sam2_hiera_tiny"
    assert "research and education only" in WEIGHTS["medsam2"].licence
    assert {WEIGHTS[name].input_scaling for name in WEIGHTS if "sam2" in name} == {"sam"}
