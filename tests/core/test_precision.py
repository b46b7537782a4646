"""Precision and memory of the image encoder: what changes, and what must not."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import pytest
import torch

from medsam_adapt.config import checked_precision
from medsam_adapt.core import precision as running
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.precision import Running, run_as, running_of
from medsam_adapt.kernels import attention_tiles
from medsam_adapt.methods import CobotAdaptFormer, LoRA, SeriesAdapters
from medsam_adapt.networks import build_segmenter
from medsam_adapt.networks.build import build_teacher
from medsam_adapt.networks.encoder_stages import stages_sha256
from tests.methods.method_tester import add_noise

SIZE = 64


def network(adapter, **running):
    """The small SAM, its encoder frozen but for the adapter, no tensor as it starts."""
    torch.manual_seed(0)
    return add_noise(build_segmenter("vit_nano", SIZE, 2, adapter, checkpoint="random", tune_encoder=False, **running))


def step(segmenter, seed=0, batch=2):
    """Loss and gradients of one training step, dropout drawn from ``seed``; the loss couples the slices of a batch."""
    torch.manual_seed(seed)
    segmenter.train().zero_grad()
    loss = segmenter(torch.rand(batch, 3, SIZE, SIZE) * 255).square().mean().log()
    loss.backward()
    return loss, {name: tensor.grad for name, tensor in segmenter.named_parameters() if tensor.grad is not None}


def kept(work):
    """Values that ``work`` keeps for its gradient."""
    count = 0

    def note(tensor):
        nonlocal count
        count += tensor.numel()
        return tensor.detach()  # an operator's own result would hold the operator, which holds it

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return count


@pytest.mark.parametrize(
    "adapter", [LoRA(), SeriesAdapters(), CobotAdaptFormer()], ids=lambda each: type(each).__name__
)
def test_low_memory_gives_the_same_gradients_and_keeps_less(adapter):
    plain, small = network(adapter), network(adapter, low_memory=True)
    small.load_state_dict(plain.state_dict())
    (loss, expected), (own_loss, found) = step(plain), step(small)
    torch.testing.assert_close(own_loss, loss)
    assert list(found) == list(expected)
    assert any("image_encoder" in name for name in expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    images = torch.zeros(2, 3, SIZE, SIZE)
    assert kept(lambda: small.encode(images)) < 0.4 * kept(lambda: plain.encode(images))  # one block of six is kept


def test_low_memory_computes_attention_once_and_lets_it_go(monkeypatch):
    """In every step; and what was kept for a gradient goes with it, also when the gradient is never asked for."""
    calls, mix = [], attention_tiles._mix
    monkeypatch.setattr(attention_tiles, "_mix", lambda *given: calls.append(given[0].shape) or mix(*given))
    plain, small = network(LoRA()), network(LoRA(), low_memory=True)
    step(plain)
    once = list(calls)
    assert len(once) >= 4
    for _ in range(2):
        calls.clear()
        step(small)
        assert calls == once
    small(torch.zeros(2, 3, SIZE, SIZE))
    assert not [each for each in gc.get_objects() if type(each) is running._Again]


def test_low_memory_can_be_derived_twice_and_repeatedly():
    """The graph may be asked again, for the same gradient or for one that is derived itself."""
    plain, small = network(LoRA()), network(LoRA(), low_memory=True)
    small.load_state_dict(plain.state_dict())
    images, found = torch.rand(1, 3, SIZE, SIZE) * 255, []
    for segmenter in (plain, small):
        weight = segmenter.sam.image_encoder.blocks[0].attn.qkv.b_v.weight
        loss = segmenter.encode(images).square().mean()
        first = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for _ in range(2)]
        assert torch.equal(*first)
        (slope,) = torch.autograd.grad(loss, weight, create_graph=True)
        found.append([slope, *torch.autograd.grad(slope.square().sum(), weight)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.detach().abs().max()))


@pytest.mark.parametrize("head", [{}, {"prompt": "box"}], ids=["classes", "box"])
@pytest.mark.parametrize("size", [1, 2])
def test_few_slices_at_once_give_the_same_gradients_and_keep_less(size, head):
    plain, small = network(SeriesAdapters(), **head), network(SeriesAdapters(), slices_at_once=size, **head)
    small.load_state_dict(plain.state_dict())
    (loss, expected), (own_loss, found) = step(plain, batch=3), step(small, batch=3)
    torch.testing.assert_close(own_loss, loss)
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    images = torch.zeros(3, 3, SIZE, SIZE)
    assert kept(lambda: small(images)) < 0.1 * kept(lambda: plain(images))


def test_a_batch_that_is_small_enough_is_not_computed_again():
    plain, small = network(LoRA()), network(LoRA(), slices_at_once=2)
    images = torch.zeros(2, 3, SIZE, SIZE)
    assert kept(lambda: small(images)) == kept(lambda: plain(images))


def test_bf16_is_near_fp32_and_ends_in_fp32():
    plain, half = network(LoRA()), network(LoRA(), precision="bf16")
    half.load_state_dict(plain.state_dict())
    image = torch.rand(2, 3, SIZE, SIZE) * 255
    exact, found = plain.eval().encode(image), half.eval().encode(image)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().mean() < 0.05 * exact.abs().mean()
    (_, expected), (_, slopes) = step(plain), step(half)
    for name in expected:
        if "b_q" in name or "b_v" in name:
            cosine = torch.cosine_similarity(slopes[name].flatten(), expected[name].flatten(), dim=0)
            assert cosine > 0.95, name


def test_features_of_another_precision_are_others():
    """What frozen layers gave in one precision is never taken for what they give in the other."""
    encoder = build_teacher("vit_nano", SIZE).sam.image_encoder
    before = stages_sha256(encoder, 3)
    assert stages_sha256(run_as(encoder, "bf16"), 3) != before
    assert stages_sha256(run_as(encoder, "auto", low_memory=True), 3) == before  # on the CPU


@pytest.mark.parametrize(("precision", "on"), [("auto", ("cuda",)), ("bf16", ("cuda", "cpu")), ("fp32", ())])
def test_auto_is_bf16_on_a_gpu_only(precision, on):
    assert [name for name in ("cuda", "cpu") if Running(precision).is_bf16(torch.device(name))] == list(on)


@pytest.mark.parametrize(("tuned", "expected"), [(True, "fp32"), (False, "auto")])
def test_auto_is_fp32_for_an_encoder_that_is_trained_whole(tuned, expected):
    segmenter = build_segmenter("vit_nano", SIZE, 2, LoRA(), tune_encoder=tuned, precision="auto")
    assert running_of(segmenter.sam.image_encoder).precision == expected


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match=r"--precision fp16: there is no such precision\. Use auto, fp32, bf16"):
        checked_precision("fp16")


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="this system's C library cannot give memory back",
)
@pytest.mark.parametrize("low_memory", [False, True])
def test_low_memory_gives_back_what_the_allocator_cannot_use(low_memory):
    size, count, walls, seen = 2**20, 40, [], []  # a tensor has 4 MiB
    torch.empty(31 * 2**18)  # gone at once: from now on the C library does not map tensors of less by themselves
    pairs = [(torch.zeros(size), torch.zeros(size)) for _ in range(count)]

    def leave_holes(value):
        walls.extend(wall for _, wall in pairs)
        pairs.clear()
        return look(value)

    def look(value):
        seen.append(int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        return value

    Running("fp32", low_memory).run([leave_holes, look, look], torch.zeros(size, requires_grad=True))
    assert (seen[0] - seen[1] > 0.8 * count * 4 * size) == low_memory, seen
