"""The fused kernels for a GPU: interpreted where there is none, compiled for two architectures, and tried on one."""

import copy
import os
import subprocess
import sys
import warnings

import pytest
import torch
from segment_anything.modeling.image_encoder import Block
from torch import nn

from medsam_adapt.networks import attention, attention_fused
from medsam_adapt.networks.attention import EncoderAttention
from medsam_adapt.networks.attention_fused import can_fuse, fused, trial
from medsam_adapt.networks.attention_tiles import plain
from tests.networks.test_attention import in_one_go

pytest.importorskip("triton")
CPU = torch.device("cpu")
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are interpreted where there is no GPU")


@interpreted
@pytest.mark.parametrize("grid", [(3, 5), (5, 17)], ids=str)
def test_it_is_segment_anythings_attention(grid, monkeypatch):
    """Output to 1e-5, gradients of tokens, weights and tables to 1e-5 of the largest; no side fills its tiles."""
    monkeypatch.setattr(attention, "tiled", in_one_go(fused))
    torch.manual_seed(0)
    block = Block(40, 2, use_rel_pos=True, input_size=grid)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    fast = copy.deepcopy(block)
    fast.attn = EncoderAttention(fast.attn, 0)
    tokens = torch.randn(2, *grid, 40, requires_grad=True)
    expected, found = block(tokens), fast(tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    along = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [tokens, *block.parameters()], along)
    slopes = torch.autograd.grad(found, [tokens, *fast.parameters()], along)
    for right, slope in zip(wanted, slopes, strict=True):
        assert right.abs().max() > 0
        assert (slope - right).abs().max() <= 1e-5 * right.abs().max()


@interpreted
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float16, 2e-3)], ids=str)
@pytest.mark.parametrize("dim", [8, 64, 80])
def test_vectors_of_every_length_and_half_precision(dim, dtype, most):
    """80 is ViT-H's; bfloat16, which the interpreter cannot multiply, takes float16's way."""
    assert 0 < trial(CPU, dtype, dim, backward=True) <= most


@interpreted
def test_a_query_far_above_the_others_does_not_overflow():
    given = [torch.randn(1, *shape, requires_grad=True) for shape in ((20, 8), (12, 8), (12, 8), (20, 3), (20, 4))]
    with torch.no_grad():
        given[0][0, 0] *= 1e4
        given[3][0, 1, 2] = -1e4
    expected, found = plain(*given, 0.5), fused(*given, 0.5)
    torch.testing.assert_close(found, expected)
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(found.sum(), given))


@interpreted
def test_it_can_be_derived_twice():
    given = [torch.randn(1, *shape, requires_grad=True) for shape in ((4, 3), (6, 3), (6, 3), (4, 2), (4, 3))]

    def twice(attend):
        slopes = torch.autograd.grad(attend(*given, 0.5).square().sum(), given[:3], create_graph=True)
        return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), given)

    for found, right in zip(twice(fused), twice(plain), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_what_it_does_not_suit_goes_another_way():
    few = torch.zeros(1, attention_fused.FEW_KEYS - 1, 64, dtype=torch.bfloat16)
    assert not can_fuse(few, torch.zeros(1, 4096, 64), False), "a processor"
    if torch.cuda.is_available():
        assert not can_fuse(few.cuda(), few.cuda(), False), "windows"
        assert not can_fuse(few.cuda().float(), torch.zeros(1, 4096, 64).cuda(), False), "single precision"


@pytest.mark.parametrize(
    ("found", "warning"), [(0.01, None), (0.5, r"is off by 0.5 here"), (RuntimeError("no such\nthing"), "no such")]
)
def test_a_device_is_trusted_after_a_trial(found, warning, monkeypatch):
    """Which is made once; one that fails is told, with what happens instead."""

    def tried(*given):
        calls.append(given)
        if isinstance(found, Exception):
            raise found
        return found

    calls: list[tuple] = []
    monkeypatch.setattr(attention_fused, "trial", tried)
    attention_fused._is_right.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            answers = {attention_fused._is_right(CPU, torch.bfloat16, 64, True) for _ in range(2)}
    finally:
        attention_fused._is_right.cache_clear()
    assert answers == {warning is None}
    assert len(calls) == 1
    assert len(told) == (warning is not None)
    if warning is not None:
        assert warning in str(told[0].message)
        assert "PyTorch's own is used instead" in str(told[0].message)


def test_the_kernels_compile_for_a_gpu_that_is_not_here():
    """As far as machine code, for ViT-B on Hopper; benchmarks/compile_kernels.py does so for more."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = "import sys; sys.path.insert(0, 'benchmarks'); import compile_kernels as c; print(c.compiled(90, 64))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dim", [64, 80])
def test_on_a_gpu(dim):
    assert trial(torch.device("cuda"), torch.bfloat16, dim, backward=True) < attention_fused._TOLERANCE[torch.bfloat16]
