"""A SAM 2 of a few channels, which tests register for their time as the backbone ``sam2_small``."""

from dataclasses import replace

from medsam_adapt.weights.backbones import VARIANTS

NAME = "sam2_small"


def register(monkeypatch):
    """Its name, known until the test ends."""
    sizes = {"embed_dim": 64, "depth": 8, "depths": (1, 2, 3, 2), "global_attention": (4,), "prompt_dim": 64}
    variant = replace(VARIANTS["sam2_hiera_tiny"], name=NAME, decoder_mlp_dim=64, iou_hidden_dim=32, **sizes)
    monkeypatch.setitem(VARIANTS, NAME, variant)
    return NAME
