"""The mask decoder whose tokens are projected instead of its pixels gives what SAM's own gives."""

import pytest
import torch

from medsam_adapt.kernels import mask_decoder
from medsam_adapt.methods.lora import DecoderLoRA
from medsam_adapt.networks import Segmenter, build_sam, build_segmenter

CLOSE = {"rtol": 1e-4, "atol": 5e-5}
BOXES = torch.tensor([[2.0, 3, 20, 25], [5, 5, 30, 12], [0, 0, 31, 31], [9, 4, 15, 28]])


def made(kernels, **settings):
    torch.manual_seed(0)
    settings = {"variant": "vit_nano", "image_size": 32, **settings}
    sam = build_sam(checkpoint="random", kernels=kernels, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in sam.mask_decoder.parameters():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return Segmenter(sam, "structure" if settings.get("num_classes") is None else "exclusive").eval()


def embedding_of(network, count):
    shape = count, network.sam.prompt_encoder.embed_dim, *network.sam.prompt_encoder.image_embedding_size
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def calls(monkeypatch):
    """How often the faster form of a layer, and of the first one of prompts on one image, ran."""
    counted = {"_layer": 0, "_of_one_image": 0}

    def counting(name, function):
        def wrapped(*arguments):
            counted[name] += 1
            return function(*arguments)

        return wrapped

    for name in counted:
        monkeypatch.setattr(mask_decoder, name, counting(name, getattr(mask_decoder, name)))
    return counted


@pytest.mark.parametrize("values", [1, 2**20])
@pytest.mark.parametrize("count", [1, 2, 4])
@torch.no_grad()
def test_prompts_on_images_and_on_one_image(count, values, monkeypatch, calls):
    monkeypatch.setattr(mask_decoder, "_VALUES", values)
    plain, fast = made(False), made(True)
    embedding, boxes = embedding_of(plain, count), BOXES[:count]
    shared = embedding[:1].expand(count, -1, -1, -1)
    for each in (embedding, shared):
        expected, found = (network.decode(each.contiguous(), boxes=boxes) for network in (plain, fast))
        torch.testing.assert_close(found.logits, expected.logits, **CLOSE)
        torch.testing.assert_close(found.mask_tokens, expected.mask_tokens, **CLOSE)
    assert calls["_layer"] > 0
    assert calls["_of_one_image"] == 0
    found = fast.decode(shared, boxes=boxes).logits
    torch.testing.assert_close(found, plain.decode(shared, boxes=boxes).logits, **CLOSE)
    torch.testing.assert_close(found, plain.decode(shared.contiguous(), boxes=boxes).logits, **CLOSE)
    assert bool(calls["_of_one_image"]) == (count >= 3)


@torch.no_grad()
def test_classes_without_prompts_and_sam_2(calls):
    for settings, prompts in (
        ({"num_classes": 2}, {}),
        ({"variant": "sam2_hiera_tiny"}, {"boxes": BOXES[:2]}),
        ({"variant": "lite_medsam"}, {"boxes": BOXES[:2]}),
    ):
        plain, fast = made(False, **settings), made(True, **settings)
        before = calls["_layer"]
        embedding = plain.encode(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255)
        expected = plain.decode(embedding, **prompts).logits
        torch.testing.assert_close(fast.decode(embedding, **prompts).logits, expected, **CLOSE)
        assert calls["_layer"] > before


def test_gradients_other_layers_many_tokens_and_autocast_take_the_plain_form(calls):
    fast, plain = made(True), made(False)
    embedding = embedding_of(fast, 2)
    found = []
    for network in (fast, plain):
        network.decode(embedding, boxes=BOXES[:2]).logits.square().mean().backward()
        found.append([each.grad for each in network.parameters() if each.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    adapted = build_segmenter("vit_nano", 32, 2, DecoderLoRA(), checkpoint="random")
    with torch.no_grad():
        adapted.decode(embedding)
        made(True, num_classes=12).decode(embedding)
        with torch.autocast("cpu", torch.bfloat16):
            fast.decode(embedding, boxes=BOXES[:2])
    assert not any(calls.values())


@torch.no_grad()
def test_masks_come_from_a_part_of_the_pixels_at_a_time(monkeypatch):
    plain, fast = made(False, num_classes=2), made(True, num_classes=2)
    embedding = embedding_of(plain, 2)
    expected = plain.decode(embedding, upsample=False).logits
    for values in (4 * 128, 4 * 128 * 5, 2**20):  # one pixel, five, all
        monkeypatch.setattr(mask_decoder, "_VALUES", values)
        torch.testing.assert_close(fast.decode(embedding, upsample=False).logits, expected, **CLOSE)
