"""What every format of volumes shares: the checked geometry of a volume, and the three functions of a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.lazy import lazy_module

if TYPE_CHECKING:
    import nibabel as nib
else:
    nib = lazy_module("nibabel")

DEFLATE_RATIO = 1100  # deflate compresses by at most 1032, so a header that claims more voxels than this lies
CHUNK = 1 << 20  # bytes
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's and ITK's millimetres to NIfTI's
_LARGEST_NIFTI1 = 32767  # voxels along an axis


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """Geometry of one 3D volume.

    Attributes:
        path: the file, or the folder of a DICOM series.
        shape: voxels along the three array axes.
        affine: (4, 4) float64, from voxel index to RAS+ millimetres.
        other_affines: other affines that the header states, or that other programs read from it, by a phrase that
            names the statement and who follows it.
        contradiction: what is contradictory in the header, as the end of a sentence; empty where nothing is.
        notes: warnings about the file, whole sentences that begin with its path.
        layers: of a 3D Slicer segmentation with overlapping segments; 1 for everything else.
        is_cropped: whether the header states that the volume covers a part of another one.
        modality: what the numbers are by the header: "CT", "MR", "PT", …, or "ADC" of an MR series of
            diffusion coefficients; None where it does not state it.
        spacing: voxel size in mm along the three array axes (the lengths of the affine's columns).
    """

    path: Path
    shape: tuple[int, int, int]
    affine: np.ndarray
    other_affines: Mapping[str, np.ndarray] = field(default_factory=dict, kw_only=True)
    contradiction: str = field(default="", kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    is_cropped: bool = field(default=False, kw_only=True)
    layers: int = field(default=1, kw_only=True)
    modality: str | None = field(default=None, kw_only=True)
    spacing: tuple[float, float, float] = field(init=False)

    @property
    def modalities(self) -> tuple[str | None, ...]:
        """`modality` of each image of the volume."""
        return (self.modality,)

    def __post_init__(self) -> None:
        with np.errstate(all="ignore"):  # what overflows here is refused below
            lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
            volume = abs(np.linalg.det(self.affine[:3, :3] / lengths))  # 1 for perpendicular axes, 0 if two coincide
        believable = ((lengths > 1e-6) & (lengths < 1e6)).all()
        if not (np.isfinite(self.affine).all() and believable and volume > 1e-3):
            raise InputError(
                f"{self.path}: it has an affine that cannot be inverted, so its voxels have no place in the patient. "
                "Export it again from its source."
            )
        object.__setattr__(self, "spacing", tuple(float(length) for length in lengths))

    @cached_property
    def orientation(self) -> str:
        """Where each array axis grows towards, such as "RAS" or "LPS"."""
        return "".join(nib.aff2axcodes(self.affine))


@dataclass(frozen=True)
class VolumeFormat:
    """How the volumes of one format are read.

    Attributes:
        read_header: the checked geometry of a file.
        read_voxels: the voxels as stored, (X, Y, Z) of any real dtype, and the slope and intercept to rescale them by;
            takes what ``read_header`` gave.
        label_header: the NIfTI header that a label on this volume's grid starts from; takes what ``read_header`` gave.
    """

    read_header: Callable[[Path], VolumeHeader]
    read_voxels: Callable[[Any], tuple[np.ndarray, float, float]]
    label_header: Callable[[Any], nib.Nifti1Header]


def plain_label_header(header: VolumeHeader) -> nib.Nifti1Header:
    """A NIfTI header in mm whose sform and qform are the affine (the qform without shear, which it cannot hold)."""
    kind = nib.Nifti1Header if max(header.shape) <= _LARGEST_NIFTI1 else nib.Nifti2Header
    fields = kind()
    fields.set_data_shape(header.shape)
    fields.set_xyzt_units("mm")
    fields.set_qform(header.affine, code="scanner", strip_shears=True)
    fields.set_sform(header.affine, code="scanner")
    return fields


def unreadable(path: Path, why: object) -> InputError:
    """The sentence for a damaged file."""
    return InputError(f"{path}: it cannot be read, possibly truncated or damaged ({why}). Copy or download it again.")


def check_size(path: Path, needed: int, held: int, ratio: int = 1) -> None:
    """Refuse a header that claims more bytes than ``held`` can give, compressed by ``ratio`` at most."""
    if needed > held * ratio:
        raise InputError(
            f"{path}: it is truncated or corrupt (its header claims {needed:,} bytes, more than a file of {held:,} can "
            "hold). Copy or download it again."
        )


def listed_size(shape: tuple[int, ...]) -> str:
    """The voxels along each axis as a sentence has them: "512 × 512 × 90"."""
    return " × ".join(map(str, shape))
