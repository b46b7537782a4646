import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from medsam_adapt.core.errors import InputError
from medsam_adapt.methods import LoRA
from medsam_adapt.methods.samparser import Parser, reconstruct, singular_values
from medsam_adapt.networks import build_sam
from tests import golden
from tests.methods.method_tester import AdapterTester, build_segmenter


class TestParser(AdapterTester):
    start_tolerance = 1e-5  # U Σ Vᵀ is the weight but for rounding

    def build(self):
        return Parser()


class TestParserOfAllLayers(AdapterTester):
    start_tolerance = 1e-5

    def build(self):
        return Parser(layers="all")


def reference_layers(figures, dtype):
    layers = {}
    for name in ("conv1", "conv3", "fc"):
        weight, bias = figures[f"w.{name}.weight"], figures.get(f"w.{name}.bias")
        out_features, in_features, *kernel = weight.shape
        if kernel:
            layer = nn.Conv2d(in_features, out_features, kernel, padding=kernel[0] // 2, bias=bias is not None)
        else:
            layer = nn.Linear(in_features, out_features)
        layer.load_state_dict({"weight": torch.tensor(weight)} | ({} if bias is None else {"bias": torch.tensor(bias)}))
        layers[name] = layer.to(dtype)
    return layers


def outputs(layers, x, key):
    conv1 = layers["conv1"](x)
    conv3 = layers["conv3"](conv1.tanh())
    fc = layers["fc"](conv3.tanh().flatten(2))
    return {key.format("conv1"): conv1, key.format("conv3"): conv3, key.format("fc"): fc}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reconstruction_is_that_of_the_reference(dtype):
    figures = golden.load("parser_svd")
    layers, x = reference_layers(figures, dtype), torch.tensor(figures["x"], dtype=dtype)
    assert golden.error(outputs(layers, x, "orig_out_{}"), figures) < 3e-5
    for layer in layers.values():
        reconstruct(layer)
    values = outputs(layers, x, "svd_out_init_{}")
    for name, layer in layers.items():
        values |= {f"{name}.W_eff_init": layer.weight, f"{name}.singular_values": layer.singular_values.clone()}
        with torch.no_grad():
            layer.singular_values.mul_(torch.tensor(figures[f"{name}.scale"]))
        values |= {f"{name}.W_eff_scaled": layer.weight, f"{name}.singular_values_scaled": layer.singular_values}
    scaled = outputs(layers, x, "svd_out_scaled_{}")
    probes = {name: torch.tensor(figures[f"probe_{name}"], dtype=dtype) for name in layers}
    sum((scaled[f"svd_out_scaled_{name}"] * probe).sum() for name, probe in probes.items()).backward()
    values |= scaled | {f"{name}.grad_scaled_vector_S": singular_values(layer).grad for name, layer in layers.items()}
    assert golden.error(values, figures) < 3e-5


@pytest.mark.parametrize("case", ["10to6", "7to7", "3to5", "2to9"])
def test_every_rank_is_exact_where_the_reference_truncates(case):
    """The authors' code keeps floor(rank / 4) · 4 singular values, at least one: both weights are shown."""
    figures = golden.load("parser_svd")
    rows = figures["quirk_in_out_fullrank_rankkept"]
    _, _, full, kept = next(row for row in rows if case == f"{row[0]}to{row[1]}")
    weight = torch.tensor(figures[f"quirk_{case}.weight"])
    layer = nn.Linear(*weight.T.shape)
    layer.weight.data.copy_(weight)
    reconstruct(layer)
    assert singular_values(layer).shape == (full,)
    assert golden.error({f"quirk_{case}.weight": layer.weight}, figures) < 3e-5
    truncated = f"quirk_{case}.W_eff_rank_truncated"
    assert golden.error({truncated: layer.weight}, figures) > 0.05
    singular_values(layer).data[kept:] = 0
    assert golden.error({truncated: layer.weight}, figures) < 3e-5


@pytest.mark.parametrize("layer", [nn.Linear(5, 7), nn.Conv2d(6, 4, 3, groups=2, bias=False)])
def test_only_singular_values_are_trained_and_torch_merges_them(layer):
    assert reconstruct(layer) is layer
    assert [name for name, tensor in layer.named_parameters() if tensor.requires_grad] == [
        "parametrizations.weight.0.singular_values"
    ]
    trained = sum(tensor.numel() for tensor in layer.parameters()) - (0 if layer.bias is None else layer.bias.numel())
    assert trained == layer.singular_values.numel()
    with torch.no_grad():
        layer.singular_values.mul_(1.5)
    expected = layer.weight.clone()
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) in (nn.Linear, nn.Conv2d)
    assert torch.equal(layer.weight, expected)
    with pytest.raises(InputError, match=r"no trainable singular values\. Call reconstruct"):
        singular_values(layer)


def test_a_weight_assigned_later_is_decomposed_anew():
    layer, weight = reconstruct(nn.Linear(5, 7)), torch.rand(7, 5)
    layer.weight = weight
    torch.testing.assert_close(layer.weight, weight)
    torch.testing.assert_close(layer.singular_values.detach(), torch.linalg.svdvals(weight))


@pytest.mark.parametrize(("layers", "expected"), [("neck", 2), ("attention", 2 * 6), ("all", 2 + 4 * 6 + 1)])
def test_lists_the_layers_it_covers(layers, expected):
    sam, adapter = build_sam("vit_nano", image_size=64), Parser(layers)
    before = list(adapter.covered(sam))
    assert len(before) == expected
    assert list(adapter.covered(adapter.attach(sam))) == before
    assert ("image_encoder.neck.0" in before) == (layers != "attention")


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"no layers called 'knee'\. Use one of neck, attention, all"):
        Parser("knee")
    for module in (nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4)), nn.ConvTranspose2d(4, 4, 2)):
        with pytest.raises(InputError, match=f"cannot decompose a {type(module).__name__}. Give it a Linear or Conv2d"):
            reconstruct(module)
    with pytest.raises(InputError, match="Attach it once"):
        reconstruct(reconstruct(nn.Linear(4, 4)))
    sam = LoRA().attach(build_segmenter().sam)
    sam.image_encoder.neck = nn.Identity()
    with pytest.raises(InputError, match="layers='neck': SAM-PARSER found no linear layer or convolution"):
        Parser().attach(sam)
