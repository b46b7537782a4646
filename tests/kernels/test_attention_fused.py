"""The fused kernels: run on a GPU, or interpreted where there is none, and compiled for one that is not here."""

import copy
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block
from torch import nn
from torch.utils.checkpoint import checkpoint

from medsam_adapt.core.precision import run_as, running_of
from medsam_adapt.kernels import attention, attention_fused
from medsam_adapt.kernels.attention import EncoderAttention
from medsam_adapt.kernels.attention_fused import can_fuse, fused, trial
from medsam_adapt.kernels.blocks import install

pytest.importorskip("triton", minversion="3.3", reason="older interpreters do not know all of the language")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("grid", "window"), [((3, 5), 0), ((3, 17), 0), ((4, 5), 3), ((6, 3), 3)], ids=str)
def test_it_is_segment_anythings_attention(grid, window, monkeypatch):
    """Output to 1e-5, gradients of tokens, weights and tables to 1e-5 of the largest; no side fills its tiles."""
    monkeypatch.setattr(attention, "can_fuse", lambda *_: True)
    torch.manual_seed(0)
    block = Block(40, 2, use_rel_pos=True, window_size=window, input_size=grid)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    fast = copy.deepcopy(block).to(DEVICE)
    fast.attn, fast.window_size = EncoderAttention(fast.attn, window), 0
    tokens = torch.randn(1 + (window > 0), *grid, 40, requires_grad=True)
    shown = tokens.detach().to(DEVICE).requires_grad_()
    expected, found = block(tokens), fast(shown)
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    along = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [tokens, *block.parameters()], along)
    slopes = torch.autograd.grad(found, [shown, *fast.parameters()], along.to(DEVICE))
    for right, slope in zip(wanted, slopes, strict=True):
        assert right.abs().max() > 0
        assert (slope.cpu() - right).abs().max() <= 1e-5 * right.abs().max()


@pytest.mark.parametrize(
    ("dtype", "most", "dim", "columns", "window", "padded"),
    [
        (torch.float32, 1e-5, 64, 20, 0, False),
        (torch.float32, 1e-5, 8, 5, 5, True),
        (torch.float16, 5e-3, 80, 12, 0, False),
        (torch.float16, 5e-3, 8, 9, 9, True),
    ],
    ids=str,
)
def test_vectors_of_every_length_and_half_precision(dtype, most, dim, columns, window, padded):
    """80 is ViT-H's; bfloat16, which the interpreter cannot multiply, takes float16's way."""
    assert 0 < trial(DEVICE, dtype, dim, columns, window, padded, backward=True) <= most


def test_windows_without_padding_and_in_larger_tiles(monkeypatch):
    """Tiles of another size than are used, so that several of queries and of keys make a window."""
    monkeypatch.setattr(
        attention_fused,
        "sides_of",
        lambda *_: {"BLOCK": 32, "KEYS": 32, "COLUMNS": 8, "HALF": 8, "DIM": 16},
    )
    for padded in (False, True):
        assert 0 < trial(DEVICE, torch.float32, 12, 7, 7, padded, backward=True) <= 1e-5


def given(grid=(3, 4), dim=8, heads=1):
    """Queries, keys and values of a grid, and the tables of its rows and columns."""
    shapes = [(1, *grid, 3 * heads * dim), (2 * grid[0] - 1, dim), (2 * grid[1] - 1, dim)]
    return [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in shapes]


def test_a_query_far_above_the_others_does_not_overflow():
    qkv, *tables = given()
    with torch.no_grad():
        qkv[0, 0, 0, :8] *= 1e4
        tables[0][2] *= 1e3
    results = [form(qkv, None, *tables, 1, 0, 0.5) for form in (attention_fused._plainly, fused)]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(results[1].sum(), [qkv, *tables]))


def test_it_can_be_derived_twice():
    """With what fills windows up."""
    qkv, *tables = given((3, 3))
    fill = torch.randn(24, device=DEVICE, requires_grad=True)
    tables = [torch.randn(3, 8, device=DEVICE, requires_grad=True) for _ in tables]
    inputs = [qkv, fill, *tables]

    def twice(attend):
        slopes = torch.autograd.grad(attend(*inputs, 1, 2, 0.5).square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), inputs)

    for found, right in zip(twice(fused), twice(attention_fused._plainly), strict=True):
        assert (found - right).abs().max() <= 1e-4 * right.abs().max()


def test_what_it_does_not_suit_goes_another_way():
    qkv, *tables = (each.detach().bfloat16() for each in given((16, 16)))
    assert not can_fuse(qkv.cpu(), None, *(each.cpu() for each in tables), 1, 0), "a processor"
    if torch.cuda.is_available():
        assert can_fuse(qkv, None, *tables, 1, 0)
        assert not can_fuse(qkv.float(), None, *tables, 1, 0), "single precision"
        assert not can_fuse(qkv, None, tables[0], tables[1].new_zeros(129, 8), 1, 0), "rows that are too long"


def is_right(device=DEVICE, dtype=torch.float16):
    return attention_fused._is_right(device, dtype, 8, 4, 0, False, True)


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
    """Which is made once; one that fails is reported, with what happens instead."""

    def tried(*given):
        calls.append(given)
        if isinstance(found, Exception):
            raise found
        return found

    calls: list[tuple] = []
    monkeypatch.setattr(attention_fused, "trial", tried)
    with warnings.catch_warnings(record=True) as reported:
        warnings.simplefilter("always")
        answers = {is_right(dtype=torch.bfloat16) for _ in range(2)}
    assert answers == {warning is None}
    assert len(calls) == 1
    assert len(reported) == (warning is not None)
    if warning is not None:
        assert warning in str(reported[0].message)
        assert "PyTorch's own is used instead" in str(reported[0].message)


def test_gradients_that_are_no_numbers_are_not_trusted(untried, monkeypatch):
    launch = attention_fused._launch

    def spoilt(kernel, tensors, *others):
        launch(kernel, tensors, *others)
        if kernel == "key_gradients":
            tensors[-2].fill_(float("nan"))

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
    # A new process: a forked one may have imported Triton's interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = "import sys; sys.path.insert(0, 'benchmarks'); import compile_kernels as c; print(c.compiled(90, 64))"
    command, folder = [sys.executable, "-c", script], Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "key_gradients" in done.stdout


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_an_encoder_on_a_gpu_takes_it_and_gives_what_it_gave(untried, low_memory, depth, monkeypatch):
    """ViT-B's width and heads, 64 x 64 tokens, a global block or windows too, in bfloat16, against longer vectors."""
    torch.manual_seed(0)
    plain_encoder = ImageEncoderViT(
        embed_dim=768, depth=depth, num_heads=12, use_rel_pos=True, window_size=14, global_attn_indexes=(0,)
    )
    for parameter in plain_encoder.parameters():
        nn.init.normal_(parameter, std=0.02)
    install(plain_encoder)
    encoder = run_as(plain_encoder.cuda(), "bf16", low_memory)
    tokens = torch.randn(1, 64, 64, 768, device="cuda", requires_grad=True)

    def results():
        output = running_of(encoder).run(encoder.blocks, tokens)
        return [output, *torch.autograd.grad(output.square().mean(), [tokens, *encoder.blocks.parameters()])]

    found = results()
    assert attention_fused._is_right.cache_info().currsize == depth, "it was not tried"
    monkeypatch.setattr(attention, "can_fuse", lambda *_: False)
    for own, right in zip(found, results(), strict=True):
        assert (own - right).norm() <= 0.02 * right.norm()
