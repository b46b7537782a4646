"""Products of frozen layers equal PyTorch's own layers, forwards and backwards, by either library, and step aside."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medsam_adapt.core.precision import run_as
from medsam_adapt.kernels import linear_onednn as products
from medsam_adapt.kernels import low_rank
from medsam_adapt.kernels.linear_onednn import TokenLinear, linear
from medsam_adapt.methods import AdaptFormer, CobotLoRA, LoRA
from medsam_adapt.methods.series_adapter import SeriesAdapters
from medsam_adapt.networks import build_sam
from medsam_adapt.networks.encoder_stages import run_stages

x86 = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@pytest.fixture(params=[True, False], ids=["oneDNN", "the other library"])
def asked(request, monkeypatch):
    """Matrices of any size are worth it, by the one library and by the other, and products are counted."""
    if request.param and not products._HAS_OPERATOR:
        pytest.skip("this PyTorch or processor is without oneDNN")
    monkeypatch.setattr(products, "_WORTHWHILE", 0)
    monkeypatch.setattr(products, "_IS_FASTER", request.param)
    asked = []
    theirs = products.product
    for module in (products, low_rank):
        monkeypatch.setattr(module, "product", lambda *given: asked.append(given) or theirs(*given))
    return asked


def matrices(inputs: int = 24, outputs: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 5, 7, inputs), torch.randn(outputs, inputs), torch.randn(outputs)


@pytest.mark.skipif(not x86, reason="not an x86 processor with AVX2")
def test_this_pytorch_has_the_operator():
    """If this fails with a new PyTorch, its operator has other arguments: everything still works, and is slower."""
    assert products._HAS_OPERATOR


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("laid_out", ["whole", "turned", "a part"])
def test_forwards(asked, gelu, biased, laid_out):
    tokens, weight, bias = matrices()
    tokens = {"whole": tokens, "turned": tokens.transpose(0, 2), "a part": tokens[:, 1:, ::2]}[laid_out]
    bias = bias if biased else None
    expected = F.linear(tokens, weight, bias)
    with torch.no_grad():
        torch.testing.assert_close(
            linear(tokens, weight, bias, gelu), F.gelu(expected) if gelu else expected, rtol=0, atol=1e-5
        )
    assert len(asked) == 1


@pytest.mark.parametrize("gelu", [False, True])
def test_gradients_of_what_enters_a_frozen_layer(asked, gelu):
    """The first derivative, and the second, which asks for another form."""
    tokens, weight, bias = matrices()
    tokens.requires_grad_()

    def slopes(result):
        (first,) = torch.autograd.grad(result.square().sum(), tokens, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), tokens, retain_graph=True)
        (alone,) = torch.autograd.grad(result.square().sum(), tokens)
        return first.detach(), second, alone

    plain = F.linear(tokens, weight, bias)
    wanted = slopes(F.gelu(plain) if gelu else plain)
    assert not asked
    found = slopes(linear(tokens, weight, bias, gelu))
    assert len(asked) == 3, "forwards, and at the end of each way back that is not itself derived"
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("reason", ["trained weight", "trained bias", "small", "float64", "autocast"])
def test_where_it_steps_aside(asked, reason, monkeypatch):
    tokens, weight, bias = matrices()
    expected = F.linear(tokens, weight, bias)
    if reason == "float64":
        tokens, weight, bias = tokens.double(), weight.double(), bias.double()
    elif reason == "small":
        monkeypatch.setattr(products, "_WORTHWHILE", weight.numel() + 1)
    weight.requires_grad_(reason == "trained weight")
    bias.requires_grad_(reason == "trained bias")
    with torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"):
        found = linear(tokens, weight, bias)
    assert not asked
    assert found.requires_grad == reason.startswith("trained")
    assert found.dtype == {"autocast": torch.bfloat16, "float64": torch.float64}.get(reason, torch.float32)
    rough = 0.2 if reason == "autocast" else 1e-5
    torch.testing.assert_close(found.to(expected.dtype), expected, rtol=0, atol=rough)


def test_onednn_is_asked_where_it_is_faster_and_not_switched_off(monkeypatch):
    tokens, weight, bias = matrices()
    wanted, theirs = [], torch.ops.mkldnn._linear_pointwise if products._HAS_OPERATOR else None
    monkeypatch.setattr(products, "_WORTHWHILE", 0)
    for has, faster, enabled in itertools.product((False, products._HAS_OPERATOR), (False, True), (False, True)):
        monkeypatch.setattr(products, "_HAS_OPERATOR", has)
        monkeypatch.setattr(products, "_IS_FASTER", faster)
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", enabled)
        monkeypatch.setattr(
            torch.ops.mkldnn, "_linear_pointwise", lambda *given: wanted.append(given) or theirs(*given)
        )
        wanted.clear()
        linear(tokens, weight, bias)
        assert len(wanted) == (has and faster and enabled)


def test_a_recording_holds_plain_operators(asked):
    tokens, weight, bias = matrices()
    layer = TokenLinear(_layer(weight, bias)).requires_grad_(False)
    recorded = torch.jit.trace(layer, tokens, check_trace=False)
    assert not asked
    assert "mkldnn" not in str(recorded.graph)


def test_a_layer_keeps_its_tensors_and_what_it_computes():
    _, weight, bias = matrices()
    plain = _layer(weight, bias)
    ours = TokenLinear(plain)
    assert ours.weight is plain.weight
    assert ours.bias is plain.bias
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert repr(ours).replace("TokenLinear", "Linear") == repr(plain)
    twin = copy.deepcopy(ours)
    tokens = torch.randn(3, 24)
    assert torch.equal(twin(tokens), plain(tokens))
    without = TokenLinear(nn.Linear(24, 40, bias=False))
    assert without.bias is None
    assert torch.equal(without(tokens), F.linear(tokens, without.weight))


@pytest.mark.parametrize(
    "adapter", [LoRA(), AdaptFormer(), CobotLoRA(), SeriesAdapters(first_block=0)], ids=lambda each: type(each).__name__
)
@pytest.mark.parametrize("low_memory", [False, True], ids=["kept", "computed again"])
def test_a_whole_encoder_with_an_adapter(asked, adapter, low_memory, monkeypatch):
    """Embedding and gradients of a SAM whose frozen layers are computed so, against those by PyTorch's own layers."""
    torch.manual_seed(0)
    sam = adapter.attach(build_sam("vit_nano", 64, checkpoint="random").requires_grad_(False))
    encoder = run_as(sam.image_encoder, low_memory=low_memory).eval()
    for parameter in encoder.parameters():  # as if trained: nothing of the adapter is zero any more
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    image, found = torch.randn(2, 3, 64, 64), []
    for least in (2**30, 0):
        monkeypatch.setattr(products, "_WORTHWHILE", least)
        encoder.zero_grad()
        embedding = run_stages(encoder, image)
        embedding.square().sum().backward()
        with torch.no_grad():
            alone = run_stages(encoder, image)
        slopes = {name: each.grad.clone() for name, each in encoder.named_parameters() if each.grad is not None}
        found.append({"embedding": embedding.detach(), "without gradient": alone, **slopes})
        assert bool(asked) == (least == 0)
    assert len(found[0]) > 2
    for name, plain in found[0].items():
        assert (found[1][name] - plain).abs().max() <= 1e-4 * plain.abs().max(), name


def _layer(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer
