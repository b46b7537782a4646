"""The part of an image encoder that training never changes, whatever the adapter: its leading stages.

An encoder is a chain of stages: the patch embedding with its positions, each block, and the neck. In a TinyViT the
convolution blocks and the ways from one width to the next are stages too. A Hiera's neck and mask decoder need the
results of earlier blocks as well, which lie beside the tokens in further channels. What comes before the first stage
with a trainable tensor gives the same features for the same image in every step, so it needs to be computed once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from medsam_adapt.core.precision import running_of
from medsam_adapt.networks.hiera import Hiera
from medsam_adapt.networks.sam import weights_sha256
from medsam_adapt.networks.tiny_vit import FrozenNorm, TinyViT

Stage = Callable[[Tensor], Tensor]
Encoder = Any  # segment-anything's ImageEncoderViT, TinyViT or Hiera; their modules are found by name


def frozen_stages(encoder: Encoder) -> int:
    """Number of leading stages without a trainable tensor: 0 to blocks + 2, which is all of the encoder.

    A stage that draws at random or gathers statistics in training counts as trained.
    """
    positions = encoder.pos_embed
    if _is_trained(encoder.patch_embed) or (positions is not None and positions.requires_grad):
        return 0
    modules = _modules(encoder)[1:]
    trained = [index for index, module in enumerate(modules) if _is_trained(module)]
    return 1 + (trained[0] if trained else len(modules))


def run_stages(encoder: Encoder, value: Tensor, first: int = 0, last: int | None = None) -> Tensor:
    """Stages ``first`` up to ``last`` (not included; all that follow when None).

    Args:
        encoder: SAM's.
        value: the normalised image (B, 3, S, S) for ``first`` = 0, else what the stage before gave.
        first: index of the first stage to run.
        last: index of the stage to stop before.

    Returns:
        tokens (B, h, w, C), or the embedding (B, D, h, w) where the neck has run.
    """
    stages: Sequence[Callable[[Any], Any]] = _stages(encoder)[first:last]
    if isinstance(encoder, Hiera):
        stages = _packed(encoder, stages, first, last)
    return running_of(encoder).run(stages, value)


def _packed(
    encoder: Hiera, stages: Sequence[Callable[[Any], Any]], first: int, last: int | None
) -> Sequence[Callable[[Any], Any]]:
    """The stages of a Hiera, with one tensor at both ends."""
    ends = last is None or last >= stage_count(encoder)
    before = [partial(encoder.unpack, count=first - 1)] if 0 < first < stage_count(encoder) else []
    behind = [] if ends else [encoder.pack]
    return [*before, *stages, *behind]


def features_shape(encoder: Encoder, stages: int) -> tuple[int, int, int]:
    """Shape of one image's features behind the first ``stages`` (1 or more): (h, w, C), or (D, h, w) behind all."""
    whole = stages == stage_count(encoder)
    if isinstance(encoder, Hiera):
        side = encoder.img_size // 16
        return (encoder.out_channels, side, side) if whole else encoder.trunk_shape(stages - 1)
    if isinstance(encoder, TinyViT):
        side, _, width = encoder.trunk_shape(stages - 1)
    else:
        side = encoder.img_size // encoder.patch_embed.proj.kernel_size[0]
        width = encoder.patch_embed.proj.out_channels
    return (encoder.neck[0].out_channels, side, side) if whole else (side, side, width)


def stage_count(encoder: Encoder) -> int:
    """Number of stages."""
    return len(_modules(encoder))


def describe_stages(encoder: Encoder, stages: int) -> str:
    """What the first ``stages`` are, in words."""
    blocks = stage_count(encoder) - 2
    if stages == stage_count(encoder):
        return "the whole image encoder"
    return f"{'all' if stages - 1 == blocks else f'the first {stages - 1} of'} {blocks} blocks of the image encoder"


def stages_sha256(encoder: Encoder, stages: int) -> str:
    """SHA-256 over the weights of the first ``stages``, how their attention is divided, and their precision."""
    in_bf16 = running_of(encoder).is_bf16(next(encoder.parameters()).device)
    digest = hashlib.sha256(f"{encoder.img_size} {stages} {in_bf16}".encode())
    if encoder.pos_embed is not None:
        digest.update(encoder.pos_embed.detach().cpu().numpy().tobytes())
    for module in _modules(encoder)[:stages]:
        attention = getattr(module, "attn", None)
        windows = getattr(module, "window_size", None), getattr(attention, "num_heads", None)
        digest.update(f"{weights_sha256(module)} {windows}".encode())
    return digest.hexdigest()


def _stages(encoder: Encoder) -> Sequence[Callable[[Any], Any]]:
    if isinstance(encoder, Hiera):
        blocks = [partial(encoder.run_block, index) for index in range(len(encoder.blocks))]
        return [lambda image: (encoder.patch_embed(image),), *blocks, encoder.run_neck]

    def embed(image: Tensor) -> Tensor:
        tokens = encoder.patch_embed(image)
        return tokens if encoder.pos_embed is None else tokens + encoder.pos_embed

    def neck(tokens: Tensor) -> Tensor:
        return encoder.neck(tokens.permute(0, 3, 1, 2))

    return [embed, *_modules(encoder)[1:-1], neck]


def _modules(encoder: Encoder) -> list[nn.Module]:
    """One for each stage."""
    trunk = encoder.trunk if isinstance(encoder, TinyViT) else encoder.blocks
    return [encoder.patch_embed, *trunk, encoder.neck]


def has_dropout(module: nn.Module) -> bool:
    """Whether any layer draws at random in training."""
    return any(isinstance(part, _DropoutNd) and part.p > 0 for part in module.modules())


def _is_trained(module: nn.Module) -> bool:
    gathers = any(isinstance(part, _NormBase) and not isinstance(part, FrozenNorm) for part in module.modules())
    return has_dropout(module) or gathers or any(parameter.requires_grad for parameter in module.parameters())
