"""File formats that segmentations are written in, one module each, found by listing this folder.

A format is a module that offers the names of `OutputFormat`; its file name, with hyphens for underscores, is its name
for ``--format``. Modules whose names begin with an underscore are shared by the formats.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import did_you_mean
from medsam_adapt.data.volumes.io import VolumeHeader


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Structures in a volume's own voxels.

    Attributes:
        voxels: (X, Y, Z) label ids, 0 is background; or (C, X, Y, Z) masks of 0 and 1 where structures may overlap.
        names: of the C structures.
        label_ids: of the C structures, in the order of ``names``.
        drawn: by whom, which DICOM segmentations state.
    """

    voxels: np.ndarray
    names: Sequence[str]
    label_ids: Sequence[int]
    drawn: Literal["by a model", "by people", "by both"] = "by a model"

    @property
    def overlapping(self) -> bool:
        """Whether a voxel may belong to several structures."""
        return self.voxels.ndim == 4

    def mask(self, index: int) -> np.ndarray:
        """(X, Y, Z) bool, where structure ``index`` (from 0) is."""
        return self.voxels[index] > 0 if self.overlapping else self.voxels == self.label_ids[index]

    def structures(self) -> Iterator[tuple[str, int, np.ndarray]]:
        """Name, label id and (X, Y, Z) bool mask of each structure in turn."""
        for index, (name, label_id) in enumerate(zip(self.names, self.label_ids, strict=True)):
            yield name, label_id, self.mask(index)


class OutputFormat(Protocol):
    """What a format's module offers.

    One that takes certain structures only offers ``check_names(names)`` too, which raises an InputError for others, and
    always writes all structures to one file.

    Attributes:
        SUFFIX: appended to the case's name, such as "_seg.nii.gz".
        DESCRIPTION: what reads it, in a few words.
        HOLDS_OVERLAP: whether one file holds structures that overlap.
        NEEDS_DICOM: whether it refers to the DICOM images that were segmented.
    """

    SUFFIX: str
    DESCRIPTION: str
    HOLDS_OVERLAP: bool
    NEEDS_DICOM: bool

    def require(self) -> None:
        """Raise an InputError when a library that the format needs is not installed."""

    def check(self, like: VolumeHeader) -> None:
        """Raise an InputError where the format cannot refer to this volume; only of formats that need DICOM."""

    def write(self, path: Path, segmentation: Segmentation, like: VolumeHeader) -> None:
        """Write one file, whole or not at all, on the grid of ``like``, whose files may be read again."""


@cache  # asked for every case of a prediction, of which there may be thousands
def format_names() -> tuple[str, ...]:
    """Names of all formats, in alphabetical order; imports none of them."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name.replace("_", "-") for name in modules if not name.startswith("_")))


def get_format(name: str) -> OutputFormat:
    """The format's module.

    Raises:
        InputError: no such format.
    """
    known = format_names()
    if name not in known:
        hint = did_you_mean(name, known)
        raise InputError(f"--format {name}: there is no such format.{hint} Choose from {', '.join(known)}.")
    return cast("OutputFormat", importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
