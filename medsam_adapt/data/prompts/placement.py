"""Prompts in space, as a user gives them, onto the slices that the segmenter sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from medsam_adapt.config import Axis, PromptMode
from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.lazy import lazy_module
from medsam_adapt.core.text import class_key, did_you_mean
from medsam_adapt.data.prompts.file import Prompt
from medsam_adapt.data.prompts.simulated import SlicePrompt

if TYPE_CHECKING:
    from nibabel import orientations
else:
    orientations = lazy_module("nibabel.orientations")

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SLICE_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}


class Task(Protocol):
    """What a run segments and how: its classes and their ids, its slicing direction, and its kind of prompt."""

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def label_ids(self) -> Sequence[int]: ...

    @property
    def axis(self) -> Axis: ...

    @property
    def prompt(self) -> PromptMode: ...


def prompts_on_slices(
    prompts: Sequence[Prompt], task: Task, shape: Sequence[int], affine: np.ndarray, where: str = "prompts"
) -> dict[int, dict[int, SlicePrompt]]:
    """Slice -> class -> what points at it there; a 3D box gives the same 2D box on each of its slices.

    Args:
        prompts: of one volume.
        task: of the run: its classes, slicing direction, and the kind of prompt that it was trained with.
        shape: of the volume, in its own axis order.
        affine: (4, 4) of the volume, from voxel index to RAS millimetres.
        where: what the prompts come from, for the sentence.

    Raises:
        InputError: all faults with their places: a structure that the run does not have, a place outside the volume,
            two boxes for a structure on one slice, or a kind of prompt that the run was not trained with.
    """
    found: dict[int, dict[int, SlicePrompt]] = {}
    problems = []
    for number, prompt in enumerate(prompts):
        try:
            structure = _class_of(prompt.label, task)
            for index, on_slice in _on_slices(prompt, task.axis, shape, affine):
                there = found.setdefault(index, {})
                there[structure] = _together(there.get(structure), on_slice)
        except InputError as error:
            problems.append(f"{where}[{number}]: {error}")
    if not problems:
        problems = _unsuitable(found, task, where)
    if problems:
        raise problems_error(problems)
    return found


def _class_of(label: str | int, task: Task) -> int:
    """The class, from 1, that a name or a label id stands for."""
    if isinstance(label, int) or label.isdecimal():
        if int(label) in task.label_ids:
            return task.label_ids.index(int(label)) + 1
        pairs = ", ".join(f"{i} {name}" for i, name in zip(task.label_ids, task.class_names, strict=True))
        raise InputError(f"the run has no label id {label}. Choose from {pairs}.")
    keys = [class_key(name) for name in task.class_names]
    if class_key(label) in keys:
        return keys.index(class_key(label)) + 1
    hint = did_you_mean(class_key(label), keys)
    raise InputError(f"the run has no class {label!r}.{hint} Choose from {', '.join(task.class_names)}.")


def _on_slices(prompt: Prompt, axis: Axis, shape: Sequence[int], affine: np.ndarray) -> list[tuple[int, SlicePrompt]]:
    """The prompt on each slice that it touches."""
    to_voxel = {"voxel": np.eye(4), "mm-ras": np.linalg.inv(affine), "mm-lps": np.linalg.inv(affine) @ _LPS_TO_RAS}
    orientation = orientations.io_orientation(affine)
    into_ras = np.linalg.inv(orientations.inv_ornt_aff(orientation, tuple(shape))) @ to_voxel[prompt.units]
    lengths = np.array(shape)[np.argsort(orientation[:, 0])]
    placed: list[tuple[int, SlicePrompt]] = []
    size = " × ".join(map(str, shape))
    if prompt.box is not None:
        corners = [_moved(corner, into_ras) for corner in prompt.box]
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        if (np.round(high) < 0).any() or (np.round(low) > lengths - 1).any():
            raise InputError(f"the box lies outside the volume of {size} voxels. Correct its corners or units.")
        (first, *ends), (last, *others) = (_slice_coordinates(end, axis, lengths) for end in (low, high))
        x0, x1, y0, y1 = (*sorted((ends[0], others[0])), *sorted((ends[1], others[1])))
        count = lengths[_SLICE_AXIS[axis]]
        for index in range(max(0, round(first)), min(int(count) - 1, round(last)) + 1):
            placed.append((index, SlicePrompt(box=(x0, y0, x1, y1))))
    for point in prompt.points:
        position = _moved(point.at, into_ras)
        if (np.round(position) < 0).any() or (np.round(position) > lengths - 1).any():
            raise InputError(
                f"the point {list(point.at)} lies outside the volume of {size} voxels. Correct it or its units."
            )
        index_of, x, y = _slice_coordinates(position, axis, lengths)
        placed.append((round(index_of), SlicePrompt(points=((x, y, point.inside),))))
    return placed


def _moved(position: Sequence[float], matrix: np.ndarray) -> np.ndarray:
    return (matrix @ (*position, 1.0))[:3]


def _slice_coordinates(voxel: np.ndarray, axis: Axis, lengths: np.ndarray) -> tuple[float, float, float]:
    """Slice, column and row of a voxel of the RAS volume: as `volume_to_slices` lays them out."""
    across, down = (i for i in range(3) if i != _SLICE_AXIS[axis])
    column, row = lengths[across] - 1 - voxel[across], lengths[down] - 1 - voxel[down]
    return float(voxel[_SLICE_AXIS[axis]]), float(column), float(row)


def _together(given: SlicePrompt | None, more: SlicePrompt) -> SlicePrompt:
    if given is None:
        return more
    if given.box is not None and more.box is not None:
        raise InputError("the structure has another box on the same slice. Give one box per structure and slice.")
    return SlicePrompt(given.box if more.box is None else more.box, given.points + more.points)


def _unsuitable(found: dict[int, dict[int, SlicePrompt]], task: Task, where: str) -> list[str]:
    """What the run was not trained for, once per structure."""
    problems: dict[int, str] = {}
    for on_slice in found.values():
        for structure, prompt in on_slice.items():
            name = task.class_names[structure - 1]
            if task.prompt == "box" and prompt.box is None:
                problems[structure] = f"{where}: {name} has points on a slice where it has no box, and the run was "
                problems[structure] += "trained with boxes. Add a box there."
            elif task.prompt == "points" and prompt.box is not None:
                problems[structure] = f"{where}: {name} has a box, but the run was trained with points. Give points."
            elif task.prompt == "points" and not any(inside for _, _, inside in prompt.points):
                problems[structure] = f"{where}: {name} has only points outside it on a slice. Add one inside."
    return list(problems.values())
