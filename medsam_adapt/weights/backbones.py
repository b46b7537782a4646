"""The SAM backbones, as plain data: listings read this file without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medsam_adapt.config import InputScaling
from medsam_adapt.core.errors import InputError

PIXEL_MEAN = (123.675, 116.28, 103.53)  # SAM's RGB statistics, on the 0-255 scale
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Variant:
    """Sizes of one SAM.

    ``encoder`` is ``vit``, SAM's own, or one whose blocks differ in width by stage: ``tiny_vit`` or ``hiera`` (SAM 2).
    Then ``embed_dim`` and ``num_heads`` are those of the last stage, ``depth`` the number of transformer blocks,
    ``patch_size`` the image's side over the embedding's. For ``hiera``, ``depths`` are the blocks of each stage and
    ``position_grid`` the side of the grid of positions that is enlarged to that of the patches.

    Widths are in channels; ``patch_size`` and ``image_size`` in pixels (``image_size`` is our default for volumes);
    ``window_size`` in patches; ``global_attention`` lists the blocks whose attention is not windowed; a ``small``
    encoder costs so little that it is trained completely along with the adapter by default. ``input_scaling`` is
    that of weights which are not registered.
    """

    name: str
    embed_dim: int
    depth: int
    num_heads: int
    global_attention: tuple[int, ...]
    patch_size: int = 16
    window_size: int = 14
    prompt_dim: int = 256
    decoder_mlp_dim: int = 2048
    iou_hidden_dim: int = 256
    image_size: int = 512
    pretraining_size: int = 1024
    small: bool = False
    encoder: Literal["vit", "tiny_vit", "hiera"] = "vit"
    depths: tuple[int, ...] = ()
    position_grid: int = 0
    input_scaling: InputScaling = "sam"

    def grid(self, image_size: int) -> int:
        """Number of patches along one side of an image of ``image_size`` pixels.

        Raises:
            InputError: when ``image_size`` is not a positive multiple of 16, or of 32 for a TinyViT or Hiera.
        """
        step = 16 if self.encoder == "vit" else 32
        if image_size < step or image_size % step:
            lower = max(step, image_size // step * step)
            raise InputError(
                f"image size {image_size} is not a positive multiple of {step}: use {lower} or {lower + step} instead."
            )
        return image_size // self.patch_size


VARIANTS = {
    variant.name: variant
    for variant in (
        # Patches of 8 pixels: at 128 pixels the small SAM sees a 16 x 16 grid and draws masks of 64 x 64.
        Variant(
            "vit_nano",
            embed_dim=160,
            depth=6,
            num_heads=5,
            global_attention=(2, 5),
            patch_size=8,
            window_size=8,
            prompt_dim=128,
            decoder_mlp_dim=512,
            iou_hidden_dim=128,
            image_size=128,
            pretraining_size=128,
            small=True,
        ),
        Variant("vit_b", embed_dim=768, depth=12, num_heads=12, global_attention=(2, 5, 8, 11)),
        Variant("vit_l", embed_dim=1024, depth=24, num_heads=16, global_attention=(5, 11, 17, 23)),
        Variant("vit_h", embed_dim=1280, depth=32, num_heads=16, global_attention=(7, 15, 23, 31)),
        Variant(
            "lite_medsam",
            embed_dim=320,
            depth=10,
            num_heads=10,
            global_attention=(),
            patch_size=4,
            image_size=256,
            pretraining_size=256,
            encoder="tiny_vit",
            input_scaling="unit",
        ),
        Variant(
            "mobile_sam",
            embed_dim=320,
            depth=10,
            num_heads=10,
            global_attention=(),
            image_size=1024,
            encoder="tiny_vit",
        ),
        Variant(
            "sam2_hiera_tiny",
            embed_dim=768,
            depth=12,
            num_heads=8,
            global_attention=(5, 7, 9),
            encoder="hiera",
            depths=(1, 2, 7, 2),
            position_grid=7,
        ),
        Variant(
            "sam2_hiera_base_plus",
            embed_dim=896,
            depth=24,
            num_heads=16,
            global_attention=(12, 16, 20),
            encoder="hiera",
            depths=(2, 3, 16, 3),
            position_grid=14,
        ),
    )
}


def encoder_is_tuned(wanted: bool | None, variant: str, pretrained: bool) -> bool:
    """Whether the whole image encoder is trained: as wanted, else where it is small or has no pretrained weights."""
    return (get_variant(variant).small or not pretrained) if wanted is None else wanted


def get_variant(name: str) -> Variant:
    """The variant called ``name``.

    Raises:
        InputError: when there is none of that name.
    """
    if name not in VARIANTS:
        raise InputError(f"unknown backbone '{name}': use one of {', '.join(VARIANTS)}.")
    return VARIANTS[name]
