"""What every adapter must do; each adapter's test subclasses :class:`AdapterTester` and builds it.

The tests of what an adapter computes run with medsam_adapt.kernels and with segment-anything's own modules.
"""

import copy
import os
from abc import ABC, abstractmethod

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from medsam_adapt.core.acceleration import VARIABLE
from medsam_adapt.core.errors import InputError
from medsam_adapt.networks import (
    Adapter,
    Segmenter,
    attach_adapter,
    build_sam,
    load_adapter,
    save_adapter,
    trainable_tensors,
)
from medsam_adapt.weights.backbones import get_variant
from tests import small_networks

HEADS = pytest.mark.parametrize("head", ["structure", "exclusive"])
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255


SIZES = {"vit_nano": 64, **small_networks.SIZES}  # pixels


_BUILT = {}  # networks as they were built, and the random state afterwards: a copy takes a quarter of the time


def build_segmenter(head="exclusive", seed=0, backbone="vit_nano"):
    """The small SAM, or another, with random weights, two classes, and a prompt-free grid of 8 x 8."""
    key = (head, seed, get_variant(backbone), os.environ.get(VARIABLE), torch.get_default_device())
    if key not in _BUILT:
        torch.manual_seed(seed)
        classes = None if head == "structure" else 2
        segmenter = Segmenter(build_sam(backbone, SIZES[backbone], classes, checkpoint="random"), head).eval()
        _BUILT[key] = (segmenter, torch.get_rng_state())
    segmenter, state = _BUILT[key]
    torch.set_rng_state(state)  # what follows draws the same numbers, whether it was built or copied
    return copy.deepcopy(segmenter)


def image_for(segmenter):
    return IMAGE[..., : segmenter.image_size, : segmenter.image_size]


def add_noise(segmenter, scale=0.02):
    """Move every trainable tensor away from its start, the zero ones too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in trainable_tensors(segmenter).values():
            tensor += scale * torch.randn(tensor.shape, generator=generator)
    return segmenter


@torch.no_grad()
def logits_of(segmenter):
    return segmenter(image_for(segmenter).to(segmenter.sam.pixel_mean.device)).cpu()


def relative_error(value, reference):
    return ((value - reference).abs().max() / reference.abs().max()).item()


class AdapterTester(ABC):
    #: Largest change of the logits by attaching the adapter, relative to the largest logit.
    start_tolerance = 0.0
    backbone = small_networks.VIT

    @pytest.fixture(autouse=True)
    def small_backbones(self, monkeypatch):
        small_networks.register(monkeypatch)

    @abstractmethod
    def build(self) -> Adapter:
        """The adapter under test."""

    @pytest.fixture(params=["kernels", "plain"])
    def layers(self, request, monkeypatch):
        """The layers of networks that are built from here on."""
        monkeypatch.setenv(VARIABLE, "1" if request.param == "kernels" else "0")

    def base(self, head="exclusive", seed=0):
        return build_segmenter(head, seed, self.backbone)

    def attached(self, head="exclusive", seed=0):
        """A segmenter with the adapter, which itself starts from the same random numbers each time."""
        return attach_adapter(self.base(head, seed), self.build()).eval()

    @HEADS
    def test_starts_as_sam(self, head, layers):
        base = logits_of(self.base(head))
        assert relative_error(logits_of(self.attached(head)), base) <= self.start_tolerance

    def test_every_class_draws_as_mask_token_0_of_sam_from_a_token_of_its_own(self, tmp_path):
        torch.manual_seed(0)
        size = SIZES[self.backbone]
        stock = build_sam(self.backbone, size, checkpoint="random")
        torch.save(stock.state_dict(), tmp_path / "sam.pth")
        sam = build_sam(self.backbone, size, num_classes=3, checkpoint=tmp_path / "sam.pth")
        segmenter = attach_adapter(Segmenter(sam), self.build()).eval()
        # Tokens are drawn anew and attend to each other: SAM itself must carry them to be compared with.
        decoder = stock.mask_decoder
        first = decoder.output_hypernetworks_mlps[0].state_dict()
        with torch.no_grad():
            decoder.mask_tokens.weight.copy_(sam.mask_decoder.mask_tokens.weight)
        for hypernetwork in decoder.output_hypernetworks_mlps:
            hypernetwork.load_state_dict(first)
        expected = 0.1 * logits_of(Segmenter(stock, "overlapping").eval())
        assert relative_error(logits_of(segmenter), expected) <= max(self.start_tolerance, 1e-6)

    def test_only_its_own_parameters_move(self, layers):
        segmenter = add_noise(self.attached())
        before, own = copy.deepcopy(segmenter.state_dict()), trainable_tensors(segmenter)
        optimizer = torch.optim.AdamW(own.values(), lr=1e-3)
        segmenter.train()(image_for(segmenter)).square().mean().backward()
        optimizer.step()
        aliases = {name for name, tensor in segmenter.named_parameters(remove_duplicate=False) if tensor.requires_grad}
        moved = {name for name, tensor in segmenter.state_dict().items() if not torch.equal(tensor, before[name])}
        assert moved == aliases
        assert set(own) <= aliases

    @HEADS
    def test_gradient_reaches_every_trainable_tensor(self, head, layers):
        segmenter = add_noise(self.attached(head))
        segmenter(image_for(segmenter)).square().mean().backward()
        unreached = [
            name
            for name, tensor in trainable_tensors(segmenter).items()
            if (tensor.grad is None or not tensor.grad.any())
            and not name.endswith("k_proj.bias")  # softmax ignores what all keys share: zero but for rounding
        ]
        assert unreached == []

    def test_saves_and_loads_what_it_trains(self, tmp_path, layers):
        trained = add_noise(self.attached())
        save_adapter(trained, tmp_path)
        torch.manual_seed(2)
        fresh = attach_adapter(self.base(), self.build()).eval()
        assert not torch.equal(logits_of(fresh), logits_of(trained))
        assert torch.equal(logits_of(load_adapter(fresh, tmp_path)), logits_of(trained))

    def test_plain_layers_and_kernels_compute_the_same(self, monkeypatch):
        """Logits and gradients, but for rounding."""
        found = []
        for switch in ("1", "0"):
            monkeypatch.setenv(VARIABLE, switch)
            segmenter = add_noise(self.attached())
            logits = segmenter(image_for(segmenter))
            logits.square().mean().backward()
            found.append({"logits": logits.detach()} | {k: v.grad for k, v in trainable_tensors(segmenter).items()})
        most = max(float(each.abs().max()) for name, each in found[1].items() if name != "logits")
        for name, plain in found[1].items():
            torch.testing.assert_close(found[0][name], plain, rtol=1e-3, atol=1e-5 * max(1.0, most), msg=name)

    def test_refuses_another_base(self, tmp_path):
        save_adapter(self.attached(), tmp_path)
        with pytest.raises(InputError, match="other SAM weights"):
            load_adapter(self.attached(seed=1), tmp_path)

    def test_merged_equals_unmerged(self, layers):
        segmenter = add_noise(self.attached())
        if not segmenter.adapter.mergeable:
            with pytest.raises(InputError, match="cannot be merged"):
                segmenter.adapter.merge(segmenter.sam)
            return
        unmerged = logits_of(segmenter)
        segmenter.adapter.merge(segmenter.sam)
        assert relative_error(logits_of(segmenter), unmerged) <= 1e-5
        plain = self.base().state_dict()
        assert {name: tensor.shape for name, tensor in segmenter.state_dict().items()} == {
            name: tensor.shape for name, tensor in plain.items()
        }

    def test_copy_is_equal_and_independent(self):
        segmenter = add_noise(self.attached())
        replica, before = copy.deepcopy(segmenter), logits_of(segmenter)
        assert torch.equal(logits_of(replica), before)
        assert list(trainable_tensors(replica)) == list(trainable_tensors(segmenter))
        assert not torch.equal(logits_of(add_noise(replica)), before)
        assert torch.equal(logits_of(segmenter), before)

    def test_state_goes_round(self):
        segmenter, other = add_noise(self.attached()), self.attached(seed=1)
        other.load_state_dict(segmenter.state_dict())
        assert torch.equal(logits_of(other), logits_of(segmenter))

    @pytest.mark.parametrize("device", DEVICES)
    def test_moves_between_devices(self, device):
        segmenter = add_noise(self.attached())
        before, names = logits_of(segmenter), list(trainable_tensors(segmenter))
        assert relative_error(logits_of(segmenter.to(device)), before) <= 1e-3
        assert list(trainable_tensors(segmenter)) == names
        assert torch.equal(logits_of(segmenter.to("cpu")), before)

    @torch.no_grad()
    def test_moves_between_types(self):
        segmenter = add_noise(self.attached())  # segment-anything's prompt encoder knows single precision only
        before, names = segmenter.encode(image_for(segmenter)), list(trainable_tensors(segmenter))
        assert relative_error(segmenter.double().encode(image_for(segmenter).double()), before) <= 1e-5
        assert list(trainable_tensors(segmenter)) == names
        assert torch.equal(segmenter.float().encode(image_for(segmenter)), before)

    def test_trains_under_distributed_data_parallel(self, tmp_path):
        segmenter = add_noise(self.attached())
        segmenter(image_for(segmenter)).square().mean().backward()
        expected = {name: tensor.grad.clone() for name, tensor in trainable_tensors(segmenter).items()}
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        try:
            parallel = DistributedDataParallel(segmenter)
            for _ in range(2):  # the second pass fails when the first left a trainable tensor without a gradient
                segmenter.zero_grad()
                parallel(image_for(segmenter)).square().mean().backward()
        finally:
            dist.destroy_process_group()
        for name, tensor in trainable_tensors(segmenter).items():
            torch.testing.assert_close(tensor.grad, expected[name])

    def test_attaching_switches_no_dropout_on(self):
        segmenter = attach_adapter(self.base(), self.build())
        assert not any(module.training for module in segmenter.modules())

    def test_runs_under_autocast(self, layers):
        segmenter = add_noise(self.attached())
        before = logits_of(segmenter)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = segmenter(image_for(segmenter))
            logits.float().square().mean().backward()
        assert relative_error(logits.detach().float(), before) <= 0.1
        assert all(tensor.grad.isfinite().all() for tensor in trainable_tensors(segmenter).values())
