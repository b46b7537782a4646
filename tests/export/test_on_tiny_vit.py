"""A TinyViT written for other programs: the same logits, for any number of slices."""

import pytest
import torch

from medsam_adapt.export.check import random_inputs
from medsam_adapt.export.exporter import load_exported, write_onnx, write_torchscript
from medsam_adapt.export.portable import PortableSegmenter
from medsam_adapt.methods import LoRA
from medsam_adapt.networks import build_segmenter
from tests.methods.method_tester import add_noise
from tests.small_networks import TINY_VIT, register


@pytest.mark.parametrize("write", [write_onnx, write_torchscript])
@torch.no_grad()
def test_a_written_tiny_vit_computes_the_same(write, tmp_path, monkeypatch):
    register(monkeypatch)
    segmenter = add_noise(build_segmenter(TINY_VIT, 32, 2, LoRA(), checkpoint="random")).eval()
    expected = PortableSegmenter(segmenter)
    segmenter.adapter.merge(segmenter.sam)
    path = tmp_path / ("model.onnx" if write is write_onnx else "model.ts")
    write(PortableSegmenter(segmenter), path, "none", {"format": 1})
    written = load_exported(path)
    for batch in (1, 3):
        inputs = random_inputs(32, "none", batch)
        torch.testing.assert_close(written(inputs), expected(**inputs), rtol=1e-4, atol=1e-5)
