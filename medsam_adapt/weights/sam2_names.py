"""Names of the tensors in SAM 2's checkpoints, and under which this package has them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_MARK = "sam_mask_decoder."  # no other SAM has such names
# What only videos need: memory of other frames and pointers to objects in them.
_OF_VIDEOS = re.compile(
    r"(memory_attention|memory_encoder|mask_downsample|obj_ptr_proj|obj_ptr_tpos_proj)\."
    r"|(maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial)$"
)
_RENAMED = (
    (r"^sam_(mask_decoder|prompt_encoder)\.", r"\1."),
    (r"^no_mem_embed$", "image_encoder.neck.no_mem_embed"),
    (r"^image_encoder\.trunk\.(pos_embed|pos_embed_window)$", r"image_encoder.patch_embed.\1"),
    (r"^image_encoder\.trunk\.", "image_encoder."),
    (r"^(image_encoder\.neck\.convs\.\d+)\.conv\.", r"\1."),
    (r"^((?:image_encoder\.blocks|mask_decoder\.transformer\.layers)\.\d+\.mlp)\.layers\.0\.", r"\1.lin1."),
    (r"^((?:image_encoder\.blocks|mask_decoder\.transformer\.layers)\.\d+\.mlp)\.layers\.1\.", r"\1.lin2."),
)


def as_ours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of SAM 2 under this package's names, without those of videos; others as they are."""
    if not any(name.startswith(_MARK) for name in weights):
        return dict(weights)
    renamed = {}
    for name, tensor in weights.items():
        if _OF_VIDEOS.match(name):
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed
