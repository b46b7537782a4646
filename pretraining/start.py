"""First weights from which a small SAM learns within thousands of steps, not hundreds of thousands.

From PyTorch's own first weights the mask decoder spends its first thousand steps drawing nothing: attention is even,
so no pixel knows where the prompt is. Four changes, all of them within SAM's layout, make position count at once.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.transformer import Attention
from torch import Tensor

_SHARPNESS = 3.0  # attention logits grow with its square
_QUIET = 0.3  # first masks are near half probability, where the loss has a slope
_FREQUENCIES = (0.4, 3.0)  # of the prompts' position code, as multiples of SAM's


@torch.no_grad()
def prepare(sam: Sam) -> None:
    """Change a freshly built SAM in place.

    - The decoder's attentions between prompt and image compare positions: keys are projected as queries are, so that
      a place attends to its neighbourhood.
    - The position code mixes coarse and fine frequencies, for structures of few pixels; SAM has one scale.
    - The encoder's position table starts as sines and cosines instead of noise.
    - Hypernetworks start small.
    """
    decoder = sam.mask_decoder
    for module in decoder.transformer.modules():
        if isinstance(module, Attention) and module.internal_dim != module.embedding_dim:
            module.q_proj.weight.mul_(_SHARPNESS)
            module.k_proj.weight.copy_(module.q_proj.weight)
    for network in decoder.output_hypernetworks_mlps:
        for parameter in network.layers[-1].parameters():
            parameter.mul_(_QUIET)
    code = sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    lowest, highest = (math.log10(multiple) for multiple in _FREQUENCIES)
    code.mul_(torch.logspace(lowest, highest, code.shape[1]))
    table = sam.image_encoder.pos_embed
    table.copy_(0.5 * sine_table(table.shape[1], table.shape[3])[None])


def sine_table(side: int, channels: int) -> Tensor:
    """Sines and cosines of row and column (side, side, channels), of wavelengths from 2π to 40π patches."""
    count = channels // 4
    phases = torch.arange(side)[:, None] / torch.logspace(0, math.log10(20), count)
    waves = torch.cat([phases.sin(), phases.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1)
