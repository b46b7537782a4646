"""The normalisation's kernels: run on a GPU, or interpreted where there is none."""

import pytest
import torch
from torch import nn

from medsam_adapt.kernels import token_norm
from medsam_adapt.kernels.token_norm import TokenNorm, normalised, trial

pytest.importorskip("triton", minversion="3.3", reason="older interpreters do not know all of the language")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.float16, 1e-3)], ids=str)
@pytest.mark.parametrize("channels", [20, 768])
def test_it_is_pytorchs(channels, dtype, most):
    assert 0 < trial(DEVICE, dtype, channels) <= most


@pytest.mark.parametrize("added", [False, True], ids=["alone", "with a branch"])
def test_it_can_be_derived_twice(added):
    tokens, branch, weight, bias = (torch.randn(shape, device=DEVICE) for shape in ((2, 3, 8), (2, 3, 8), 8, 8))
    inputs = [each.requires_grad_() for each in ((tokens, branch) if added else (tokens,))]

    def plain(tokens, branch=None):
        total = tokens if branch is None else tokens + branch
        return total, nn.functional.layer_norm(total, (8,), weight, bias, 1e-6)

    def ours(tokens, branch=None):
        return normalised(tokens, branch, weight, bias, 1e-6, torch.float32)

    def twice(norm):
        total, output = norm(*inputs)
        slopes = torch.autograd.grad(output.pow(3).sum() + total.pow(2).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), inputs)

    torch.testing.assert_close(twice(ours), twice(plain), rtol=1e-4, atol=1e-4)


def test_only_one_of_its_results_may_have_a_gradient():
    tokens, branch, weight, bias = (torch.randn(shape, device=DEVICE) for shape in ((5, 8), (5, 8), 8, 8))
    inputs = [tokens.requires_grad_(), branch.requires_grad_()]
    for used in (0, 1):
        found = normalised(*inputs, weight, bias, 1e-6, torch.float32)[used]
        total = tokens + branch
        right = (total, nn.functional.layer_norm(total, (8,), weight, bias, 1e-6))[used]
        slopes = (torch.autograd.grad(each.pow(2).sum(), inputs) for each in (found, right))
        torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-5)


def test_on_a_processor_it_is_pytorchs_own(monkeypatch):
    monkeypatch.setattr(token_norm, "normalised", None)
    plain = nn.LayerNorm(8, eps=1e-6)
    nn.init.normal_(plain.weight)
    tokens, branch = torch.randn(2, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        total, output = TokenNorm(plain).after(tokens, branch)
        assert torch.equal(total, tokens + branch)
        assert torch.equal(output, plain(total))
        assert TokenNorm(plain).after(tokens)[0] is tokens
    assert list(TokenNorm(plain).state_dict()) == list(plain.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("trained", [False, True])
def test_under_autocast_on_a_gpu_it_gives_half_the_width_where_it_is_frozen(trained):
    plain = nn.LayerNorm(768, eps=1e-6).cuda().requires_grad_(trained)
    tokens = torch.randn(5, 7, 768, device="cuda", requires_grad=True)
    branch = torch.randn(5, 7, 768, device="cuda", dtype=torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16):
        total, found = TokenNorm(plain).after(tokens, branch)
        right = plain(tokens + branch)
    assert found.dtype == (torch.float32 if trained else torch.bfloat16)
    torch.testing.assert_close(total, tokens + branch)
    torch.testing.assert_close(found.float(), right, rtol=1e-2, atol=1e-2)
