"""A ViT, a TinyViT and a SAM 2 of a few channels and blocks, which tests register as backbones for their time.

The TinyViT takes the place of ``lite_medsam``, which its files are recognised as.
"""

from dataclasses import replace

import pytest
from segment_anything.build_sam import _build_sam

from medsam_adapt.networks import tiny_vit
from medsam_adapt.weights.backbones import VARIANTS

VIT, TINY_VIT, SAM2 = "vit_small", "lite_medsam", "sam2_small"
SIZES = {VIT: 64, TINY_VIT: 32, SAM2: 64}  # pixels that suit them: several windows, or one that is filled up
_DECODER = {"prompt_dim": 64, "decoder_mlp_dim": 64, "iou_hidden_dim": 32}


def register(monkeypatch):
    """Their names, known until the test ends."""
    vit = {"embed_dim": 64, "depth": 4, "num_heads": 2, "global_attention": (1, 3), "window_size": 4}
    stages = {"embed_dim": 64, "depth": 8, "depths": (1, 2, 3, 2), "global_attention": (4,)}
    for name, original, sizes in (
        (VIT, "vit_nano", vit),
        (TINY_VIT, "lite_medsam", {"embed_dim": 64, "depth": 5, "num_heads": 4}),
        (SAM2, "sam2_hiera_tiny", stages),
    ):
        monkeypatch.setitem(VARIANTS, name, replace(VARIANTS[original], name=name, **sizes, **_DECODER))
    for name, values in (("WIDTHS", (16, 32, 32, 64)), ("DEPTHS", (1, 2, 2, 1)), ("HEADS", (2, 2, 2, 4))):
        monkeypatch.setattr(tiny_vit, name, values)


def register_nano(monkeypatch):
    """``vit_nano`` has few channels and blocks until the test ends."""
    vit = {"embed_dim": 32, "depth": 4, "num_heads": 2, "global_attention": (2,), "window_size": 2}
    decoder = {"prompt_dim": 32, "decoder_mlp_dim": 64, "iou_hidden_dim": 32}
    monkeypatch.setitem(VARIANTS, "vit_nano", replace(VARIANTS["vit_nano"], **vit, **decoder))


def register_nano_for_good():
    """The same for as long as the process lives: of a process that is forked from `tests.warm`."""
    register_nano(pytest.MonkeyPatch())


def register_official(monkeypatch):
    """``vit_b`` has few channels and blocks until the test ends; segment-anything's own network of these sizes."""
    sizes = {"embed_dim": 64, "depth": 4, "num_heads": 2}
    monkeypatch.setitem(VARIANTS, "vit_b", replace(VARIANTS["vit_b"], **sizes, global_attention=(1, 3)))
    official = {f"encoder_{name}": value for name, value in sizes.items()}
    return _build_sam(**official, encoder_global_attn_indexes=(1, 3))
