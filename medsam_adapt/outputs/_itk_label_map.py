"""What the formats that ITK writes as one plain label map have in common."""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.data.volumes.io import VolumeHeader
from medsam_adapt.outputs import Segmentation
from medsam_adapt.outputs._itk import itk_image, save

HOLDS_OVERLAP = False
NEEDS_DICOM = False


def require() -> None:
    """Nothing beyond what is always installed."""


def write(path: Path, segmentation: Segmentation, like: VolumeHeader) -> None:
    """Write the label map; the suffix decides the format."""
    save(itk_image(segmentation.voxels, like.affine), path)
