import pytest
import torch
from segment_anything.modeling.common import MLPBlock

from medsam_adapt.core.errors import InputError
from medsam_adapt.methods import AdaptFormer, AdaptFormerMLP
from tests import golden
from tests.methods.method_tester import AdapterTester

#: Names of the authors' tensors for ours.
TENSORS = {"norm": "adapter_layer_norm_before", "down": "down_proj", "up": "up_proj"}
TENSORS |= {"mlp.lin1": "mlp.lin1", "mlp.lin2": "mlp.lin2"}


class TestAdaptFormer(AdapterTester):
    def build(self):
        return AdaptFormer(bottleneck=16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", golden.load("cobot_adapter")["block_idx"])
def test_adaptformer_is_the_plain_adapter_of_the_reference(block, dtype):
    figures = golden.load("cobot_adapter")
    dim, prefix = figures["x"].shape[-1], f"b{block}."
    hidden = len(figures[prefix + "mlp.lin1.bias"])
    layer = AdaptFormerMLP(MLPBlock(dim, hidden), dim, bottleneck=figures["FacT_c"].shape[1]).to(dtype).eval()
    layer.load_state_dict(
        {
            f"{own}.{part}": golden.tensor(figures[f"{prefix}{theirs}.{part}"], dtype)
            for own, theirs in TENSORS.items()
            for part in ("weight", "bias")
        }
    )
    x = golden.tensor(figures["x"], dtype)
    values = {"plain_adapter_branch": layer.branch(x), "plain_adapter_out": layer(x)}
    assert golden.error(values, figures, prefix) < 1e-5


def test_an_impossible_bottleneck_is_refused():
    with pytest.raises(InputError, match="bottleneck: AdaptFormer cannot have 0"):
        AdaptFormerMLP(MLPBlock(8, 8), 8, bottleneck=0)
