from functools import partial
from types import SimpleNamespace

import pytest
import torch
from segment_anything.modeling.image_encoder import Block
from torch import nn

from medsam_adapt.core.errors import InputError
from medsam_adapt.methods import SeriesAdapter, SeriesAdapters
from medsam_adapt.networks import build_sam
from tests import golden
from tests.methods.method_tester import AdapterTester


class TestSeriesAdapters(AdapterTester):
    def build(self):
        return SeriesAdapters(ratio=0.25, first_block=2)


class Parallel(nn.Module):
    """InfoSAM's own AdaptFormer, which we leave out in favour of the one that SAM-COBOT compares with."""

    def __init__(self, mlp, adapter):
        super().__init__()
        self.mlp, self.adapter = mlp, adapter

    def forward(self, tokens):
        return self.mlp(tokens) + 0.5 * (self.adapter(tokens) - tokens)


def reference_block(figures, window, dtype):
    """segment-anything's own block with the reference's weights."""
    dim = figures["x"].shape[-1]
    block = Block(
        dim,
        int(figures["num_heads"]),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=window,
        input_size=figures["x"].shape[1:3],
    )
    weights = {name: figures[f"w.{name}"] for name in block.state_dict() if "rel_pos" not in name}
    weights |= {f"attn.rel_pos_{axis}": figures[f"w.attn.rel_pos_{axis}.w{window}"] for axis in "hw"}
    block.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return block.to(dtype)


def load_adapter(adapter, figures, name):
    for own, theirs in (("down", "D_fc1"), ("up", "D_fc2")):
        for part in ("weight", "bias"):
            value = torch.tensor(figures[f"w.{name}.{theirs}.{part}"])
            getattr(getattr(adapter, own), part).data.copy_(value)
    return adapter


def output_and_gradients(block, adapters, figures, case, dtype):
    """The block's output and the gradients of <probe, output>, by the reference's keys."""
    x = golden.tensor(figures["x"], dtype)
    output = block(x)
    (output * torch.tensor(figures["probe"], dtype=dtype)).sum().backward()
    values = {f"out_{case}": output, f"grad_{case}_x": x.grad}
    for part in ("weight", "bias"):
        for norm in ("norm1", "norm2"):
            values[f"grad_{case}_{norm}.{part}"] = getattr(getattr(block, norm), part).grad
        for name, adapter in adapters.items():
            values[f"grad_{case}_{name}.D_fc1.{part}"] = getattr(adapter.down, part).grad
            values[f"grad_{case}_{name}.D_fc2.{part}"] = getattr(adapter.up, part).grad
    return values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", [0, 4])
class TestReference:
    """Window 4 pads the tokens, and our adapters act inside the windows: the reference's act after them."""

    figures = golden.load("infosam_adapter")

    def test_series(self, window, dtype):
        block = reference_block(self.figures, window, dtype)
        plain = block(torch.tensor(self.figures["x"], dtype=dtype))
        assert golden.error({f"out_w{window}_type_none": plain}, self.figures) < 1e-5
        sam = SimpleNamespace(image_encoder=SimpleNamespace(blocks=[block]), mask_decoder=nn.Module())
        SeriesAdapters(ratio=0.25, first_block=0).attach(sam)
        layers = {"Space_Adapter_Series": block.attn, "MLP_Adapter_Series": block.mlp}
        adapters = {name: load_adapter(layer.adapter, self.figures, name).to(dtype) for name, layer in layers.items()}
        values = output_and_gradients(block, adapters, self.figures, f"w{window}_type0", dtype)
        assert golden.error(values, self.figures) < 1e-5

    def test_parallel(self, window, dtype):
        block = reference_block(self.figures, window, dtype)
        hidden, dim = self.figures["w.MLP_Adapter_Parallel.D_fc1.weight"].shape
        adapter = load_adapter(SeriesAdapter(dim, hidden), self.figures, "MLP_Adapter_Parallel").to(dtype)
        block.mlp = Parallel(block.mlp, adapter)
        adapters = {"MLP_Adapter_Parallel": adapter}
        values = output_and_gradients(block, adapters, self.figures, f"w{window}_type5", dtype)
        assert golden.error(values, self.figures) < 1e-5


def test_adapter_alone_is_that_of_the_reference():
    figures = golden.load("infosam_adapter")
    hidden, dim = figures["w.Space_Adapter_Series.D_fc1.weight"].shape
    adapter = load_adapter(SeriesAdapter(dim, hidden), figures, "Space_Adapter_Series")
    x = torch.tensor(figures["x"])
    values = {"adapter_alone_skipTrue": adapter(x), "adapter_alone_skipFalse": adapter(x) - x}
    assert golden.error(values, figures) < 1e-5


@pytest.mark.parametrize("first_block", [6, -1])
def test_a_block_that_is_not_there_is_refused(first_block):
    with pytest.raises(InputError, match=f"cannot start at block {first_block} of an encoder with 6 blocks"):
        SeriesAdapters(first_block=first_block).attach(build_sam("vit_nano", image_size=64))
