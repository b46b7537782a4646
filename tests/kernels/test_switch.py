"""One switch turns all of medsam_adapt.kernels off, and the package works without the folder."""

import re
from pathlib import Path

import pytest
import torch
from segment_anything.modeling.image_encoder import Block, PatchEmbed

import medsam_adapt.cli
from medsam_adapt.core.acceleration import VARIABLE
from medsam_adapt.kernels.blocks import EncoderBlock
from medsam_adapt.methods import LoRA
from medsam_adapt.networks import build_segmenter, build_teacher
from tests.warm import run_anew

IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255


def segmenter(**settings):
    return build_segmenter("vit_nano", 64, 2, LoRA(), checkpoint="random", **settings)


def kinds(network):
    return {type(block) for block in network.sam.image_encoder.blocks}


def test_the_setting_and_the_variable_leave_segment_anythings_modules(monkeypatch):
    fast, plain = segmenter(), segmenter(kernels=False)
    assert kinds(fast) == {EncoderBlock}
    assert kinds(plain) == {Block}
    assert type(plain.sam.image_encoder.patch_embed) is PatchEmbed
    assert kinds(build_teacher("vit_nano", 64, kernels=False)) == {Block}
    assert list(plain.state_dict()) == list(fast.state_dict())
    monkeypatch.setenv(VARIABLE, "0")
    assert kinds(segmenter()) == {Block}
    monkeypatch.setenv(VARIABLE, "1")
    assert kinds(segmenter()) == {EncoderBlock}


@pytest.mark.parametrize("low_memory", [False, True])
def test_results_and_gradients_are_the_same_but_for_rounding(low_memory):
    found = []
    for kernels in (True, False):
        network = segmenter(kernels=kernels, low_memory=low_memory)
        logits = network(IMAGE)
        logits.square().mean().backward()
        trained = [tensor.grad for tensor in network.parameters() if tensor.grad is not None]
        found.append([logits.detach(), *trained])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5 * max(1.0, float(plain.abs().max())))


def test_nothing_else_imports_the_kernels():
    root = Path(medsam_adapt.__file__).parent
    for path in [*root.rglob("*.py"), *Path(medsam_adapt.cli.__file__).parent.glob("*.py")]:
        if path.parent.name != "kernels":
            imports = re.findall(r"^ *(?:from|import) .*\bkernels\b.*", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert not imports, path


def test_a_network_trains_when_the_folder_is_deleted():
    code = """
import sys

class Deleted:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[:2] == ["medsam_adapt", "kernels"]:
            raise ModuleNotFoundError(f"No module named {name!r}", name="medsam_adapt.kernels")

sys.meta_path.insert(0, Deleted())
import torch
from medsam_adapt.methods import CobotLoRA
from medsam_adapt.networks import build_segmenter
network = build_segmenter("vit_nano", 64, 2, CobotLoRA(), checkpoint="random", low_memory=True)
network(torch.rand(1, 3, 64, 64) * 255).square().mean().backward()
assert not [name for name in sys.modules if name.startswith("medsam_adapt.kernels")]
print("trained")
"""
    finished = run_anew(code)
    assert finished.out.strip() == "trained", finished.err
