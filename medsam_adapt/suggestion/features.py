"""One vector for a scan: what the image encoder makes of its slices, pooled."""

from __future__ import annotations

import math

import numpy as np
import torch

from medsam_adapt.data.slices.geometry import volume_to_slices
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.data.volumes.io import to_ras
from medsam_adapt.inference.prompted_slices import PromptSource
from medsam_adapt.inference.slice_logits import SliceLogits
from medsam_adapt.networks.segmenter import Segmenter

MOST_SLICES = 32  # of a scan that the encoder sees, evenly spaced
_BATCH = 8


@torch.no_grad()
def scan_features(slicing: SlicingSpec, segmenter: Segmenter, image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over the slices of the mean image embedding of each, (2 D,) float32.

    At most `MOST_SLICES` slices are seen. The padding beside a slice that is not square is left out.

    Args:
        slicing: how the segmenter sees volumes.
        segmenter: whose image encoder it is; its prompts play no part.
        image: (X, Y, Z) in the scanner's units, or (X, Y, Z, 3) in colour, in any orientation.
        affine: (4, 4) from voxels to mm.
    """
    volume, affine_ras = to_ras(image, affine)
    spacing = np.linalg.norm(affine_ras[:3, :3], axis=0)
    count = len(volume_to_slices(volume, slicing.axis))
    wanted = np.unique(np.linspace(0, count - 1, min(count, MOST_SLICES)).round().astype(int))
    # No tiles: slices fill the square. The image encoder does not see coordinates.
    whole = slicing.model_copy(update={"slice_size": None, "three_planes": False, "sees_coordinates": False})
    slices = SliceLogits(whole, volume, spacing, segmenter, PromptSource(prompts={}), slicing.policy.window_of(volume))
    device = segmenter.sam.pixel_mean.device
    pooled = []
    for start in range(0, len(wanted), _BATCH):
        images = torch.cat([slices.images(np.array([index])) for index in wanted[start : start + _BATCH]])
        embedding = segmenter.encode(images.to(device)).float()
        height, width = (
            max(1, math.ceil(side * cells / segmenter.image_size))
            for side, cells in zip(slices.plan.resized, embedding.shape[-2:], strict=True)
        )
        pooled.append(embedding[..., :height, :width].mean(dim=(-2, -1)).cpu())
    means = torch.cat(pooled)
    return torch.cat([means.mean(dim=0), means.std(dim=0, correction=0)]).numpy()
