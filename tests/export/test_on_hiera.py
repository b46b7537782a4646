"""A SAM 2 written for other programs: the same logits, for any number of slices and both kinds of prompts."""

import pytest
import torch

from medsam_adapt.export.check import random_inputs
from medsam_adapt.export.exporter import load_exported, write_onnx, write_torchscript
from medsam_adapt.export.portable import PortableSegmenter
from medsam_adapt.methods import LoRA
from medsam_adapt.networks import build_segmenter
from tests.methods.method_tester import add_noise
from tests.small_networks import SAM2, register


@pytest.mark.parametrize("prompt", ["none", "box"])
@pytest.mark.parametrize("write", [write_onnx, write_torchscript])
@torch.no_grad()
def test_a_written_sam_2_computes_the_same(write, prompt, tmp_path, monkeypatch):
    register(monkeypatch)
    segmenter = add_noise(build_segmenter(SAM2, 32, 2, LoRA(), prompt, checkpoint="random")).eval()
    plain = random_inputs(32, prompt, 2)
    expected = PortableSegmenter(segmenter)
    torch.testing.assert_close(expected(**plain), segmenter(**plain), rtol=1e-4, atol=1e-5)
    segmenter.adapter.merge(segmenter.sam)
    path = tmp_path / ("model.onnx" if write is write_onnx else "model.ts")
    write(PortableSegmenter(segmenter), path, prompt, {"format": 1})
    written = load_exported(path)
    for batch in (1, 3):
        inputs = random_inputs(32, prompt, batch)
        torch.testing.assert_close(written(inputs), expected(**inputs), rtol=1e-4, atol=1e-5)
