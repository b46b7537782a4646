"""SAM, built from segment-anything's own modules at any image size and with any number of mask tokens."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from medsam_adapt.config import InputScaling
from medsam_adapt.core.acceleration import accelerated
from medsam_adapt.networks.checkpoints import load_checkpoint, masks_for_classes
from medsam_adapt.networks.hiera import Hiera
from medsam_adapt.networks.sam2 import Sam2MaskDecoder, Sam2PromptEncoder
from medsam_adapt.networks.tiny_vit import TinyViT
from medsam_adapt.weights.backbones import Variant, get_variant
from medsam_adapt.weights.input_scaling import choose_input_scaling
from medsam_adapt.weights.pixel_scaling import get_scaling
from medsam_adapt.weights.store import RANDOM, resolve

SAM_MASK_TOKENS = 4  # one for a single mask, three for ambiguous prompts


def build_sam(
    variant: str = "vit_b",
    image_size: int | None = None,
    num_classes: int | None = None,
    checkpoint: str | Path | None = None,
    exclusive: bool = True,
    input_scaling: InputScaling | None = None,
    kernels: bool = True,
) -> Sam:
    """Build a SAM, on the CPU and in evaluation mode.

    At 1024 pixels and ``num_classes=None``, keys, shapes and outputs are those of segment-anything's own builder.

    Args:
        variant: a name of :data:`medsam_adapt.weights.backbones.VARIANTS`, such as ``vit_nano``.
        image_size: side of the square input in pixels, a multiple of 16 (TinyViT, Hiera: 32); its default when None.
        num_classes: None for SAM's own four mask tokens; otherwise one mask token per class, and one more
            (the first) for the background when ``exclusive``. Each draws as the pretrained mask token 0 does, with a
            tenth of its logits and from a separate random token.
        checkpoint: file in the layout of the official or MedSAM checkpoints, or a name of pretrained weights; random
            weights when None.
        exclusive: whether classes exclude each other (softmax, with background) or may overlap (sigmoid, without).
        input_scaling: pixel values that the weights expect, ``sam`` or ``unit``; when None, what the checkpoint was
            trained with.
        kernels: whether it gets the faster layers of medsam_adapt.kernels, or keeps segment-anything's.

    Raises:
        InputError: unknown variant, image size not divisible by 16 (TinyViT, Hiera: 32), a checkpoint that is not here
            or does not fit.
    """
    sizes = get_variant(variant)
    image_size = sizes.image_size if image_size is None else image_size
    sizes.grid(image_size)  # refuses an odd size
    mask_tokens = SAM_MASK_TOKENS if num_classes is None else num_classes + int(exclusive)
    input_scaling = choose_input_scaling(input_scaling, RANDOM if checkpoint is None else checkpoint, variant)
    if checkpoint is not None:
        checkpoint = resolve(checkpoint, variant)
    if checkpoint is None:
        start = sam = _assemble(sizes, image_size, SAM_MASK_TOKENS, kernels)  # a seed means one SAM, whatever the head
        _initialise(start)
        if num_classes is not None:
            sam = _assemble(sizes, image_size, mask_tokens, kernels)
            sam.load_state_dict(masks_for_classes(start.state_dict(), mask_tokens))
    else:
        with torch.device("meta"):  # random weights would only be overwritten
            sam = _assemble(sizes, image_size, mask_tokens, kernels)
        sam.to_empty(device="cpu")
        load_checkpoint(sam, checkpoint, variant=sizes, class_masks=num_classes is not None)
    _set_input_scaling(sam, input_scaling)
    return sam.eval()


def _set_input_scaling(sam: Sam, name: InputScaling) -> None:
    scaling = get_scaling(name)
    sam.input_scaling = name
    sam.pixel_mean, sam.pixel_std = (torch.tensor(value).view(3, 1, 1) for value in (scaling.mean, scaling.std))


def plain_encoder(sizes: Variant, image_size: int) -> ImageEncoderViT:
    """segment-anything's own image encoder, with its own attention: (B, 3, S, S) -> (B, prompt_dim, S / 16, S / 16).

    The last two are S / 8 for a variant whose patches have 8 pixels.
    """
    return ImageEncoderViT(
        img_size=image_size,
        patch_size=sizes.patch_size,
        embed_dim=sizes.embed_dim,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        out_chans=sizes.prompt_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=sizes.window_size,
        global_attn_indexes=sizes.global_attention,
    )


def _encoder(sizes: Variant, image_size: int) -> nn.Module:
    if sizes.encoder == "tiny_vit":
        return TinyViT(image_size, sizes.prompt_dim, stem_shrinks=sizes.patch_size == 16)
    if sizes.encoder == "hiera":
        return Hiera(
            image_size,
            embed_dim=sizes.embed_dim,
            num_heads=sizes.num_heads,
            depths=sizes.depths,
            global_attention=sizes.global_attention,
            position_grid=sizes.position_grid,
            out_chans=sizes.prompt_dim,
        )
    return plain_encoder(sizes, image_size)


def _assemble(sizes: Variant, image_size: int, mask_tokens: int, kernels: bool) -> Sam:
    grid = sizes.grid(image_size)
    is_sam2 = sizes.encoder == "hiera"
    decoder = (Sam2MaskDecoder if is_sam2 else MaskDecoder)(
        transformer_dim=sizes.prompt_dim,
        transformer=TwoWayTransformer(
            depth=2, embedding_dim=sizes.prompt_dim, num_heads=8, mlp_dim=sizes.decoder_mlp_dim
        ),
        num_multimask_outputs=mask_tokens - 1,
        iou_head_hidden_dim=sizes.iou_hidden_dim,
    )
    return Sam(
        image_encoder=accelerated(_encoder(sizes, image_size), kernels),
        prompt_encoder=(Sam2PromptEncoder if is_sam2 else PromptEncoder)(
            embed_dim=sizes.prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=accelerated(decoder, kernels),
    )


def _initialise(sam: Sam) -> None:
    """Truncated-normal weights, as vision transformers are trained from scratch (segment-anything ships none)."""
    for module in sam.image_encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if sam.image_encoder.pos_embed is not None:
        nn.init.trunc_normal_(sam.image_encoder.pos_embed, std=0.02)


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of a module's weights, in name order (64 hexadecimal digits)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if not tensor.is_meta:  # a network that is built to be counted has no bytes
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
