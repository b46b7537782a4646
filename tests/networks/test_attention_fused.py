"""The fused kernels: run on a GPU, or interpreted where there is none, and compiled for one that is not here."""

import copy
import os
import subprocess
import sys
import warnings

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block
from torch import nn
from torch.utils.checkpoint import checkpoint

from medsam_adapt.networks import attention, attention_fused
from medsam_adapt.networks.attention import EncoderAttention, use_fast_attention
from medsam_adapt.networks.attention_fused import can_fuse, fused, trial
from medsam_adapt.networks.attention_tiles import plain
from medsam_adapt.networks.running import run_as, running_of
from tests.networks.test_attention import in_one_go

pytest.importorskip("triton", minversion="3.3", reason="older interpreters do not know all of the language")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("grid", [(3, 5), (5, 17)], ids=str)
def test_it_is_segment_anythings_attention(grid, monkeypatch):
    """Output to 1e-5, gradients of tokens, weights and tables to 1e-5 of the largest; no side fills its tiles."""
    monkeypatch.setattr(attention, "attend", in_one_go(fused))
    torch.manual_seed(0)
    block = Block(40, 2, use_rel_pos=True, input_size=grid)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    fast = copy.deepcopy(block).to(DEVICE)
    fast.attn = EncoderAttention(fast.attn, 0)
    tokens = torch.randn(2, *grid, 40, requires_grad=True)
    shown = tokens.detach().to(DEVICE).requires_grad_()
    expected, found = block(tokens), fast(shown)
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    along = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [tokens, *block.parameters()], along)
    slopes = torch.autograd.grad(found, [shown, *fast.parameters()], along.to(DEVICE))
    for right, slope in zip(wanted, slopes, strict=True):
        assert right.abs().max() > 0
        assert (slope.cpu() - right).abs().max() <= 1e-5 * right.abs().max()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float16, 2e-3)], ids=str)
@pytest.mark.parametrize(("dim", "columns"), [(8, 16), (64, 20), (80, 40)])
def test_vectors_of_every_length_and_half_precision(dim, columns, dtype, most):
    """80 is ViT-H's; bfloat16, which the interpreter cannot multiply, takes float16's way."""
    assert 0 < trial(DEVICE, dtype, dim, columns, backward=True) <= most


def test_a_query_far_above_the_others_does_not_overflow():
    shapes = ((20, 8), (12, 8), (12, 8), (20, 3), (20, 4))
    given = [torch.randn(1, *shape, device=DEVICE, requires_grad=True) for shape in shapes]
    with torch.no_grad():
        given[0][0, 0] *= 1e4
        given[3][0, 1, 2] = -1e4
    expected, found = plain(*given, 0.5), fused(*given, 0.5)
    torch.testing.assert_close(found, expected)
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(found.sum(), given))


def test_it_can_be_derived_twice():
    """Queries, keys and values are parts of one layer, as those of one image are."""
    layer = torch.randn(1, 6, 9, device=DEVICE, requires_grad=True)
    biases = [torch.randn(1, *shape, device=DEVICE, requires_grad=True) for shape in ((6, 2), (6, 3))]

    def twice(attend):
        output = attend(*layer.split(3, dim=2), *biases, 0.5)
        slopes = torch.autograd.grad(output.square().sum(), [layer, biases[0]], create_graph=True)
        return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), [layer, *biases])

    for found, right in zip(twice(fused), twice(plain), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_what_it_does_not_suit_goes_another_way():
    keys, columns = torch.zeros(1, 4096, 64, dtype=torch.bfloat16), torch.zeros(1, 4096, 64)
    assert not can_fuse((keys, keys, keys, columns, columns), False), "a processor"
    if torch.cuda.is_available():
        on_it, few = keys.cuda(), keys.cuda()[:, : attention_fused.FEW_KEYS - 1]
        assert not can_fuse((few, few, few, columns, columns), False), "windows"
        assert not can_fuse((on_it.float(),) * 3 + (columns, columns), False), "single precision"
        assert not can_fuse((on_it,) * 3 + (columns, torch.zeros(1, 4096, 65)), False), "rows that are too long"


def is_right(device=DEVICE, dtype=torch.float16):
    return attention_fused._is_right(device, dtype, 8, 16, True)


@pytest.fixture
def untried():
    """No device has been tried yet, or is known to have been afterwards."""
    attention_fused._is_right.cache_clear()
    yield
    attention_fused._is_right.cache_clear()


@pytest.mark.parametrize(
    ("found", "warning"), [(0.01, None), (0.5, r"is off by 0.5 here"), (RuntimeError("no such\nthing"), "no such")]
)
def test_a_device_is_trusted_after_a_trial(untried, found, warning, monkeypatch):
    """Which is made once; one that fails is told, with what happens instead."""

    def tried(*given):
        calls.append(given)
        if isinstance(found, Exception):
            raise found
        return found

    calls: list[tuple] = []
    monkeypatch.setattr(attention_fused, "trial", tried)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        answers = {is_right(dtype=torch.bfloat16) for _ in range(2)}
    assert answers == {warning is None}
    assert len(calls) == 1
    assert len(told) == (warning is not None)
    if warning is not None:
        assert warning in str(told[0].message)
        assert "PyTorch's own is used instead" in str(told[0].message)


def test_gradients_that_are_no_numbers_are_not_trusted(untried, monkeypatch):
    launch = attention_fused._launch

    def spoilt(kernel, given, results, scale):
        launch(kernel, given, results, scale)
        if kernel == "key_gradients":
            results[1].fill_(float("nan"))

    monkeypatch.setattr(attention_fused, "_launch", spoilt)
    with pytest.warns(UserWarning, match="is off by nan here"):
        assert not is_right()


def test_a_trial_within_a_checkpoint_changes_nothing_there(untried):
    """As the first step with --low-memory makes it: what the trial keeps for its gradients is its own."""

    def stage(tokens):
        answers.append(is_right())
        return (tokens * 2).sin().exp()

    answers: list[bool] = []
    tokens = torch.randn(4, requires_grad=True)
    (found,) = torch.autograd.grad(checkpoint(stage, tokens, use_reentrant=False).sum(), tokens)
    (right,) = torch.autograd.grad((tokens * 2).sin().exp().sum(), tokens)
    assert answers == [True, True]
    torch.testing.assert_close(found, right)


def test_the_kernels_compile_for_a_gpu_that_is_not_here():
    """As far as machine code, for ViT-B on Hopper; benchmarks/compile_kernels.py does so for more."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = "import sys; sys.path.insert(0, 'benchmarks'); import compile_kernels as c; print(c.compiled(90, 64))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "key_gradients" in done.stdout


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("low_memory", [False, True])
def test_an_encoder_on_a_gpu_takes_it_and_gives_what_it_gave(untried, low_memory, monkeypatch):
    """ViT-B's width and heads in one global block of 64 x 64 tokens, in bfloat16, against the longer vectors."""
    torch.manual_seed(0)
    plain_encoder = ImageEncoderViT(embed_dim=768, depth=1, num_heads=12, use_rel_pos=True, global_attn_indexes=(0,))
    for parameter in plain_encoder.parameters():
        nn.init.normal_(parameter, std=0.02)
    encoder = run_as(use_fast_attention(plain_encoder).cuda(), "bf16", low_memory)
    tokens = torch.randn(1, 64, 64, 768, device="cuda", requires_grad=True)

    def results():
        output = running_of(encoder).run(encoder.blocks, tokens)
        return [output, *torch.autograd.grad(output.square().mean(), [tokens, *encoder.blocks.parameters()])]

    found = results()
    assert attention_fused._is_right.cache_info().currsize == 1, "it was not tried"
    monkeypatch.setattr(attention, "can_fuse", lambda *_: False)
    for own, right in zip(found, results(), strict=True):
        assert (own - right).norm() <= 0.02 * right.norm()
