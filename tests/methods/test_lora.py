import pytest
import torch
from torch import nn

from medsam_adapt.core.errors import InputError
from medsam_adapt.methods import DecoderLoRA, LoRA
from medsam_adapt.methods.lora import LoRAQueryValue
from medsam_adapt.networks import DecoderOnly
from tests import golden
from tests.methods.method_tester import AdapterTester


class TestDecoderOnly(AdapterTester):
    def build(self):
        return DecoderOnly()


class TestLoRA(AdapterTester):
    def build(self):
        return LoRA(rank=4)


class TestDecoderLoRA(AdapterTester):
    start_tolerance = 1e-5  # a decoder without LoRA multiplies in another order (kernels/mask_decoder.py)

    def build(self):
        return DecoderLoRA(rank=4)


@pytest.mark.parametrize("block", golden.load("cobot_lora")["block_idx"])
def test_lora_is_that_of_the_reference(block):
    figures = golden.load("cobot_lora")
    dim, rank = figures["x"].shape[-1], figures["FacT_c"].shape[1]
    layer = LoRAQueryValue(nn.Linear(dim, 3 * dim), rank)
    own = {"qkv.weight": "qkv.weight", "qkv.bias": "qkv.bias"}
    own |= {f"{side}_{part}.weight": f"linear_{side}_{part}.weight" for side in "ab" for part in "qv"}
    layer.load_state_dict({name: torch.tensor(figures[f"b{block}.{theirs}"]) for name, theirs in own.items()})
    x = torch.tensor(figures["x"])
    values = {"qkv_base": layer.qkv(x), "plain_lora_qkv_out": layer(x)}
    assert golden.error(values, figures, f"b{block}.") < 1e-5


@pytest.mark.parametrize("rank", [0, 17])
def test_an_impossible_rank_is_refused(rank):
    with pytest.raises(InputError, match=f"cannot have rank {rank} here. Use 1 to 16"):
        LoRAQueryValue(nn.Linear(16, 48), rank)
