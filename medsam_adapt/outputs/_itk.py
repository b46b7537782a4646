"""From (X, Y, Z) arrays with a RAS affine to SimpleITK images and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import written_whole

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI's axes against those of ITK and DICOM


def itk_image(voxels: np.ndarray, affine: np.ndarray) -> Any:
    """A SimpleITK image of the same voxels in the same places.

    Args:
        voxels: (X, Y, Z), or (X, Y, Z, components).
        affine: (4, 4) from voxel index to RAS millimetres.
    """
    import SimpleITK as sitk

    spatial = (2, 1, 0)  # SimpleITK's arrays are indexed z, y, x
    vector = voxels.ndim == 4
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(voxels.transpose((*spatial, 3) if vector else spatial)), isVector=vector
    )
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((_RAS_TO_LPS @ affine[:3, 3]).tolist())
    image.SetDirection((_RAS_TO_LPS @ (affine[:3, :3] / spacing)).ravel().tolist())
    return image


def save(image: Any, path: Path, layers: bool = False) -> None:
    """Write a SimpleITK image compressed, whole or not at all.

    Args:
        image: what is written.
        path: its suffix decides the format.
        layers: whether the components are layers of a NRRD file, which 3D Slicer calls a list and SimpleITK a vector.

    Raises:
        InputError: the file cannot be written.
    """
    import SimpleITK as sitk

    try:
        with written_whole(path) as temporary:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            if layers:
                header, blank, content = temporary.read_bytes().partition(b"\n\n")
                temporary.write_bytes(header.replace(b"kinds: vector", b"kinds: list") + blank + content)
    except RuntimeError as error:
        raise InputError(f"{path}: it cannot be written. Choose another folder or free some space.") from error
