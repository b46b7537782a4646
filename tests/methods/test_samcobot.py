import json

import pytest
import torch
from safetensors.torch import load_file
from segment_anything.modeling.common import MLPBlock
from torch import nn

from medsam_adapt.core.errors import InputError
from medsam_adapt.methods.samcobot import (
    CobotAdaptFormer,
    CobotLoRA,
    HypercomplexLinear,
    OrchestratedAdaptFormer,
    OrchestratedLoRA,
    parameter_groups,
)
from medsam_adapt.networks import attach_adapter, save_adapter, trainable_tensors
from tests import golden
from tests.methods.method_tester import AdapterTester, build_segmenter

both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


class TestCobotLoRA(AdapterTester):
    def build(self):
        return CobotLoRA(rank=4)


class TestCobotLoRAWithOrthogonalHeads(AdapterTester):
    def build(self):
        return CobotLoRA(rank=8, head_init="orthogonal")


class TestCobotAdaptFormer(AdapterTester):
    def build(self):
        return CobotAdaptFormer(bottleneck=16)


class TestCobotAdaptFormerWithReleasedHeads(AdapterTester):
    def build(self):
        return CobotAdaptFormer(bottleneck=8, head_init="released")


def head_tensors(figures, prefix):
    return {part: torch.tensor(figures[f"{prefix}{part}_weight"]) for part in "rijk"}


@both_precisions
@pytest.mark.parametrize("case", ["n4", "n8", "n16", "n8to16bias"])
class TestHypercomplexLinear:
    figures = golden.load("cobot_hypercomplex")

    def layer(self, case, dtype):
        state = head_tensors(self.figures, f"{case}.")
        if f"{case}.bias" in self.figures:
            state["bias"] = torch.tensor(self.figures[f"{case}.bias"])
        rows, columns = state["r"].shape
        layer = HypercomplexLinear(4 * rows, 4 * columns, bias="bias" in state).to(dtype)
        layer.load_state_dict(state)
        return layer

    def test_matrix(self, case, dtype):
        layer = self.layer(case, dtype)
        y3d = layer(torch.tensor(self.figures[f"{case}.x3d"], dtype=dtype))
        assert golden.error({"dense_in_by_out": layer.matrix(), "y3d": y3d}, self.figures, f"{case}.") < 1e-5

    @pytest.mark.parametrize("size", ["2d", "4d"])
    def test_output_and_gradients(self, case, dtype, size):
        layer, x = self.layer(case, dtype), golden.tensor(self.figures[f"{case}.x{size}"], dtype)
        output = layer(x)
        (output * torch.tensor(self.figures[f"{case}.probe{size}"], dtype=dtype)).sum().backward()
        values = {f"y{size}": output, f"grad_x_{size}": x.grad}
        values |= {f"grad_{part}_weight_{size}": getattr(layer, part).grad for part in "rijk"}
        if layer.bias is not None:
            values[f"grad_bias_{size}"] = layer.bias.grad
        assert golden.error(values, self.figures, f"{case}.") < 1e-5


@pytest.mark.parametrize("sizes", [(4, 4), (16, 16), (8, 16)])
def test_initial_heads(sizes):
    """Ours is the identity; the authors' code ends with r = 0 and the others uniform, which is not orthogonal."""
    wide = torch.eye(sizes[0])
    orthogonal = HypercomplexLinear(*sizes, init="orthogonal").matrix()
    assert torch.allclose(orthogonal @ orthogonal.T, wide, atol=1e-5)
    assert not torch.allclose(orthogonal[:, : sizes[0]].abs(), wide, atol=0.1)
    released = HypercomplexLinear(*sizes, init="released")
    assert not released.r.any()
    assert all(0 <= part.min() <= part.max() < 1 for part in (released.i, released.j, released.k))
    assert not torch.allclose(released.matrix() @ released.matrix().T, wide, atol=0.1)
    if sizes[0] == sizes[1]:
        assert torch.equal(HypercomplexLinear(*sizes).matrix(), wide)


#: Names of the authors' tensors for ours.
ADAPTFORMER_TENSORS = {
    "gamma": "gamma",
    **{f"head.{part}": f"FacT_d1.{part}_weight" for part in "rijk"},
    **{f"norm.{part}": f"adapter_layer_norm_before.{part}" for part in ("weight", "bias")},
    **{f"{layer}.{part}": f"{layer}_proj.{part}" for layer in ("down", "up") for part in ("weight", "bias")},
}
MLP_TENSORS = {name: name for name in ("mlp.lin1.weight", "mlp.lin1.bias", "mlp.lin2.weight", "mlp.lin2.bias")}


@both_precisions
@pytest.mark.parametrize("block", golden.load("cobot_adapter")["block_idx"])
def test_adaptformer_is_that_of_the_reference(block, dtype):
    figures = golden.load("cobot_adapter")
    dim, bottleneck, prefix = figures["x"].shape[-1], figures["FacT_c"].shape[1], f"b{block}."
    shared = [nn.Parameter(torch.tensor(figures[key])) for key in ("FacT_c", "FacT_p")]
    mlp = MLPBlock(dim, len(figures[prefix + "mlp.lin1.bias"]))
    layer = OrchestratedAdaptFormer(mlp, *shared, int(block), dim, bottleneck)
    names = ADAPTFORMER_TENSORS | MLP_TENSORS
    state = {own: torch.tensor(figures[prefix + theirs]) for own, theirs in names.items()}
    layer.load_state_dict(state, strict=False)
    layer.to(dtype).eval()
    x = golden.tensor(figures["x"], dtype)
    branch = layer.branch(x)
    (branch * torch.tensor(figures["probe"], dtype=dtype)).sum().backward()
    column = (layer.coefficients @ layer.relation)[..., layer.index]
    own = dict(layer.named_parameters())
    values = {"CP": column, "branch": branch, "out": layer(x), "grad_branch_x": x.grad}
    values |= {f"grad_branch_{theirs}": own[name].grad for name, theirs in ADAPTFORMER_TENSORS.items()}
    values |= {"grad_branch_FacT_c": layer.coefficients.grad, "grad_branch_FacT_p": layer.relation.grad}
    assert golden.error(values, figures, prefix) < 1e-5


def reference_lora(figures, block, heads, dtype):
    """Our layer with the reference's weights; ``linear`` heads are those of the authors' training script."""
    dim, rank, prefix = figures["x"].shape[-1], figures["FacT_c"].shape[1], f"b{block}."
    shared = [nn.Parameter(torch.tensor(figures[key])) for key in ("FacT_c", "FacT_p")]
    layer = OrchestratedLoRA(nn.Linear(dim, 3 * dim), *shared, int(block), rank)
    names = {"qkv.weight": "qkv.weight", "qkv.bias": "qkv.bias"}
    names |= {f"{side}_{part}.weight": f"linear_{side}_{part}.weight" for side in "ab" for part in "qv"}
    state = {own: torch.tensor(figures[prefix + theirs]) for own, theirs in names.items()}
    state["gamma_q"], state["gamma_v"] = torch.tensor(figures[prefix + "gamma"]).split(rank)
    for head, theirs in (("head_q", "FacT_d1"), ("head_v", "FacT_d2")):
        if heads == "quat":
            weights = head_tensors(figures, f"{prefix}quat.{theirs}.")
        else:
            setattr(layer, head, nn.Linear(rank, rank, bias=False))
            weights = {"weight": torch.tensor(figures[f"{prefix}linear.{theirs}.weight"])}
        state |= {f"{head}.{name}": value for name, value in weights.items()}
    layer.load_state_dict(state, strict=False)
    return layer.to(dtype)


def lora_gradients(layer, heads):
    names = [f"{side}_{part}" for side in "ab" for part in "qv"]
    gradients = {f"linear_{name}.weight": getattr(layer, name).weight.grad for name in names}
    gradients |= {"FacT_c": layer.coefficients.grad, "FacT_p": layer.relation.grad}
    gradients["gamma"] = torch.cat([layer.gamma_q.grad, layer.gamma_v.grad])
    for head, theirs in ((layer.head_q, "FacT_d1"), (layer.head_v, "FacT_d2")):
        parts = {f"{part}_weight": part for part in "rijk"} if heads == "quat" else {"weight": "weight"}
        gradients |= {f"{theirs}.{name}": getattr(head, part).grad for name, part in parts.items()}
    return {f"grad_{name}": gradient for name, gradient in gradients.items()}


@both_precisions
@pytest.mark.parametrize("heads", ["quat", "linear"])
@pytest.mark.parametrize("block", golden.load("cobot_lora")["block_idx"])
def test_lora_is_that_of_the_reference(block, heads, dtype):
    figures = golden.load("cobot_lora")
    layer, x = reference_lora(figures, block, heads, dtype), torch.tensor(figures["x"], dtype=dtype)
    output = layer(x)
    (output * torch.tensor(figures["probe"], dtype=dtype)).sum().backward()
    columns = (layer.coefficients @ layer.relation)[..., layer.index : layer.index + 2]
    assert golden.error({"CP": columns}, figures, f"b{block}.") < 1e-5
    gradients, prefix = lora_gradients(layer, heads), f"b{block}.{heads}."
    long_sums = {key: gradients.pop(key) for key in list(gradients) if "FacT_d" in key}
    nn.init.zeros_(layer.qkv.weight)
    nn.init.zeros_(layer.qkv.bias)
    query, key, value = layer(x).chunk(3, dim=-1)
    assert not key.any()
    assert golden.error({"qkv_out": output, "inc_q": query, "inc_v": value, **gradients}, figures, prefix) < 1e-5
    assert golden.error(long_sums, figures, prefix) < 1e-4


@pytest.mark.parametrize("block", golden.load("cobot_lora")["block_idx"])
def test_merged_lora_is_that_of_the_reference(block):
    figures = golden.load("cobot_lora")
    merged = reference_lora(figures, block, "quat", torch.float32).merged()
    assert type(merged) is nn.Linear
    assert golden.error({"qkv_out": merged(torch.tensor(figures["x"]))}, figures, f"b{block}.quat.") < 1e-5


@pytest.mark.parametrize("heads", [{"init": "identity"}, {"init": "orthogonal"}, {"init": "released"}])
def test_at_the_start_a_unit_sees_twice_its_features(heads):
    """C = 1, P = identity and γ = 1, so that with H the identity the increment is twice plain LoRA's."""
    layer = OrchestratedLoRA(nn.Linear(8, 24), nn.Parameter(torch.ones(1, 4, 2)), nn.Parameter(torch.eye(2)), 0, 4)
    layer.head_q = HypercomplexLinear(4, 4, **heads)
    nn.init.normal_(layer.b_q.weight)
    x = torch.rand(3, 8)
    increment = (layer(x) - layer.qkv(x))[:, :8]
    doubled = torch.allclose(increment, 2 * layer.b_q(layer.a_q(x)), atol=1e-5)
    assert doubled == (heads["init"] == "identity")


@pytest.mark.parametrize("adapter", [CobotLoRA(), CobotAdaptFormer()])
def test_shared_parameters_are_one_each_and_saved_once(adapter, tmp_path):
    segmenter = attach_adapter(build_segmenter(), adapter)
    save_adapter(segmenter, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    for name in ("coefficients", "relation"):
        layers = [layer for layer in segmenter.modules() if hasattr(layer, name)]
        assert len({id(getattr(layer, name)) for layer in layers}) == 1
        assert len(layers) == 6
        assert sum(key.endswith(name) for key in saved) == 1
    settings = json.loads((tmp_path / "adapter_config.json").read_text())["settings"]
    assert settings["head_init"] == "identity"


@pytest.mark.parametrize("adapter", [CobotLoRA(), CobotAdaptFormer()])
def test_coefficients_relation_and_heads_learn_faster(adapter):
    segmenter = attach_adapter(build_segmenter(), adapter)
    base, orchestration = parameter_groups(segmenter, learning_rate=1.25e-6)
    assert (base["lr"], orchestration["lr"]) == pytest.approx((1.25e-6, 1.25e-4))
    names = {parameter: name for name, parameter in segmenter.named_parameters()}
    fast = {names[parameter] for parameter in orchestration["params"]}
    assert fast == {
        name
        for name in trainable_tensors(segmenter)
        if "image_encoder" in name and any(part in name for part in ("coefficients", "relation", "head"))
    }
    assert len(base["params"]) + len(fast) == len(trainable_tensors(segmenter))
    torch.optim.Adam([base, orchestration])


def test_another_adapter_has_one_group():
    (group,) = parameter_groups(build_segmenter(), learning_rate=0.1)
    assert group["name"] == "base"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CobotLoRA(rank=6), "multiple of 4, not 6. Use 4 or 8"),
        (lambda: CobotAdaptFormer(bottleneck=3), "multiple of 4, not 3. Use 4 or 8"),
        (lambda: HypercomplexLinear(4, 5, bias=False), "multiple of 4, not 5"),
        (lambda: CobotLoRA(head_init="random"), "head_init: there is no 'random'. Use one of identity, orthogonal"),
    ],
)
def test_impossible_settings_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
