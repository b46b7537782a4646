"""NIfTI (.nii.gz): the image's own sform, qform, codes and units, bit for bit."""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.data.volumes.io import VolumeHeader, write_label
from medsam_adapt.outputs import Segmentation

SUFFIX = "_seg.nii.gz"
DESCRIPTION = "NIfTI label map, which every research tool reads"
HOLDS_OVERLAP = False
NEEDS_DICOM = False


def require() -> None:
    """Nothing beyond what is always installed."""


def write(path: Path, segmentation: Segmentation, like: VolumeHeader) -> None:
    """Write the label map."""
    write_label(path, segmentation.voxels, like)
