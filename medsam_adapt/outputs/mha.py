"""MetaImage (.mha): a label map with spacing, origin and directions in LPS."""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.data.io import VolumeHeader
from medsam_adapt.outputs import Segmentation
from medsam_adapt.outputs._itk import itk_image, save

SUFFIX = "_seg.mha"
DESCRIPTION = "MetaImage label map, which challenges ask for"
HOLDS_OVERLAP = False
NEEDS_DICOM = False


def require() -> None:
    """Nothing beyond what is always installed."""


def write(path: Path, segmentation: Segmentation, like: VolumeHeader) -> None:
    """Write the label map."""
    save(itk_image(segmentation.voxels, like.affine), path)
