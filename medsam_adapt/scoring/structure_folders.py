"""Cases whose structures have names, and may overlap: folders with a mask of each, ``CASE/Larynx.nii.gz``, and 3D
Slicer's segmentations.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.io import (
    VolumeHeader,
    is_slicer_label,
    read_header,
    read_label,
    volume_files,
    volume_stem,
)
from medsam_adapt.data.volumes.same_grid import align
from medsam_adapt.data.volumes.slicer_labels import read_segments, segments_of
from medsam_adapt.scoring.metrics import MetricRules, Scores, background_iou, score_volume
from medsam_adapt.scoring.summary import CaseFacts


def structure_files(folder: Path) -> dict[str, Path]:
    """Structure -> the file that holds its mask; empty for a plain label map.

    Args:
        folder: a folder of masks, or a 3D Slicer segmentation.

    Raises:
        InputError: two masks of one name; as `segments_of`.
    """
    if is_slicer_label(folder) and folder.is_file():
        return {segment.name: folder for segment in segments_of(folder)}
    if not folder.is_dir():
        return {}
    files: dict[str, Path] = {}
    for path in volume_files(folder):
        if path.is_file() and (other := files.setdefault(volume_stem(path), path)) != path:
            raise InputError(f"{other}: {path.name} is a mask of {volume_stem(path)!r} too. Remove one of them.")
    return files


def check_structures(prediction: Path, reference: Path) -> set[str]:
    """Read every mask of a case once; the names of its structures.

    Raises:
        InputError: a mask that cannot be read, or that is not on the grid of the first one of the reference.
    """
    found = {folder: structure_files(folder) for folder in (prediction, reference)}
    first = _first_header(reference)
    for path in (*found[reference].values(), *found[prediction].values()):
        require_same_grid(read_header(path), first)
    for folder, files in found.items():
        for name in files:
            _mask(folder, files, name, first)
    return {*found[prediction], *found[reference]}


def without_mask(prediction: Path, reference: Path) -> list[str]:
    """Structures of the reference that the prediction has no file of; they are scored as empty."""
    return sorted(structure_files(reference).keys() - structure_files(prediction).keys())


def score_structures(
    prediction: Path, reference: Path, names: list[str], rules: MetricRules
) -> tuple[Scores, CaseFacts]:
    """Scores of one case, a structure at a time; a mask that is not there is empty.

    Args:
        prediction: the folder of its masks.
        reference: the same.
        names: the structures to score.
        rules: which metrics, and how.
    """
    header = _first_header(reference)
    axial = next(axis for axis, towards in enumerate(header.orientation) if towards in "SI")
    files = {folder: structure_files(folder) for folder in (prediction, reference)}
    covered = [np.zeros(header.shape, bool) for _ in files]
    scores: Scores = {}
    for name in names:
        masks = [_mask(folder, found, name, header) for folder, found in files.items()]
        scores |= score_volume({name: masks[0]}, {name: masks[1]}, [name], header.spacing, rules, slice_axis=axial)
        for whole, mask in zip(covered, masks, strict=True):
            whole |= mask
    background = background_iou({"all": covered[0]}, {"all": covered[1]})
    return scores, CaseFacts(header.spacing, header.shape, background)


def require_same_grid(prediction: VolumeHeader, reference: VolumeHeader) -> None:
    """Refuse two masks that are not on one grid.

    Raises:
        InputError: naming both.
    """
    align(reference, prediction, "Write the prediction in the reference's own geometry.", other="the reference")


def _mask(folder: Path, files: Mapping[str, Path], name: str, grid: VolumeHeader) -> np.ndarray:
    """A structure on the grid; empty where it has no file."""
    if name not in files:
        return np.zeros(grid.shape, dtype=bool)
    return read_segments(folder, grid, [name])[name] if folder.is_file() else read_label(files[name], grid)[0] > 0


def _first_header(reference: Path) -> VolumeHeader:
    return read_header(next(iter(structure_files(reference).values())))
