"""The normalisation's kernels: run on a GPU, or interpreted where there is none."""

import pytest
import torch
from torch import nn

from medsam_adapt.networks import token_norm
from medsam_adapt.networks.token_norm import TokenNorm, normalised, trial

pytest.importorskip("triton", minversion="3.3", reason="older interpreters do not know all of the language")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.float16, 1e-3)], ids=str)
@pytest.mark.parametrize("channels", [20, 768])
def test_it_is_pytorchs(channels, dtype, most):
    assert 0 < trial(DEVICE, dtype, channels) <= most


def test_it_can_be_derived_twice():
    tokens, weight, bias = (torch.randn(shape, device=DEVICE) for shape in ((2, 3, 8), 8, 8))
    tokens.requires_grad_()

    def twice(norm):
        (slope,) = torch.autograd.grad(norm(tokens).pow(3).sum(), tokens, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), tokens)[0]

    right = twice(lambda given: nn.functional.layer_norm(given, (8,), weight, bias, 1e-6))
    found = twice(lambda given: normalised(given, weight, bias, 1e-6, torch.float32))
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_on_a_processor_it_is_pytorchs_own(monkeypatch):
    monkeypatch.setattr(token_norm, "normalised", None)
    plain = nn.LayerNorm(8, eps=1e-6)
    nn.init.normal_(plain.weight)
    tokens = torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(TokenNorm(plain)(tokens), plain(tokens))
    assert list(TokenNorm(plain).state_dict()) == list(plain.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("trained", [False, True])
def test_under_autocast_on_a_gpu_it_gives_half_the_width_where_it_is_frozen(trained):
    plain = nn.LayerNorm(768, eps=1e-6).cuda().requires_grad_(trained)
    tokens = torch.randn(5, 7, 768, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        found, right = TokenNorm(plain)(tokens), plain(tokens)
    assert found.dtype == (torch.float32 if trained else torch.bfloat16)
    torch.testing.assert_close(found.float(), right, rtol=1e-2, atol=1e-2)
