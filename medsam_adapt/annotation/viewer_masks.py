"""Masks for a viewer that sends points and boxes as voxel indices of the scan's file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel import orientations

from medsam_adapt.annotation.drawing import Drawing, box_of
from medsam_adapt.annotation.proposals import Proposals
from medsam_adapt.annotation.viewer_scans import present
from medsam_adapt.config import Axis, PromptMode
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.prompts.file import Point, Prompt
from medsam_adapt.data.prompts.placement import prompts_on_slices
from medsam_adapt.data.prompts.simulated import SlicePrompt
from medsam_adapt.data.slices.geometry import volume_to_slices

_PLANES: tuple[Axis, ...] = ("sagittal", "coronal", "axial")  # across the first, second and third axis of RAS
_DRAWN = 1  # number of the structure in an answer to prompts


@dataclass(frozen=True)
class Answer:
    """A label in the axis order of the scan's file, name -> number of what is in it, and the seconds that it took."""

    label: np.ndarray
    names: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class Automatic:
    """Segments whole scans."""

    proposals: Proposals
    classes: Mapping[int, str]

    def info(self) -> dict[str, Any]:
        """The model as a viewer lists it."""
        names = {name: number for number, name in self.classes.items()}
        return _info("segmentation", names, 3, "segments all classes, without prompts")

    def __call__(self, drawing: Drawing, params: Mapping[str, Any]) -> Answer:
        """The label of a scan; ``params`` play no part."""
        started = time.perf_counter()
        label = self.proposals.segment(drawing, self.classes)
        names = present(label, {name: number for number, name in self.classes.items()})
        return Answer(label, names, time.perf_counter() - started)


@dataclass(frozen=True)
class Interactive:
    """Draws what points or a box show: on one slice of the scan's third axis, or from slice to slice."""

    proposals: Proposals
    classes: Mapping[int, str]
    follows: bool

    def info(self) -> dict[str, Any]:
        """The model as a viewer lists it."""
        text = "draws a structure from slice to slice" if self.follows else "draws a structure on one slice"
        return _info("deepgrow", list(self.classes.values()), 3 if self.follows else 2, text)

    def __call__(self, drawing: Drawing, params: Mapping[str, Any]) -> Answer:
        """The mask of what ``foreground``, ``background`` and ``roi`` show, with the number 1.

        Raises:
            InputError: no prompt, or one that is no list of voxels, lies outside the scan, or that the model does not
                take.
        """
        started = time.perf_counter()
        axis = self._axis(drawing)
        prompts, reach = self._prompts(drawing, axis, params)
        mask = np.zeros(drawing.shape, np.uint8, order="F")
        slices = volume_to_slices(mask, axis)
        keys = {}
        for index, prompt in prompts.items():
            drawn = self.proposals.propose(drawing, axis, index, prompt)
            slices[index][drawn] = _DRAWN
            if drawn.any():
                keys[index] = prompt if prompt.box is not None else box_of(drawn)
        if self.follows and keys and self.proposals.prompted.boxes:
            for index, drawn in self.proposals.propagate(drawing, axis, keys, reach):
                slices[index][drawn] = _DRAWN
        label = np.ascontiguousarray(drawing.native(mask))
        name = str(params.get("label") or "structure")[:64]
        return Answer(label, present(label, {name: _DRAWN}), time.perf_counter() - started)

    def _axis(self, drawing: Drawing) -> Axis:
        """The plane across the third axis of the scan's file; if it may be another one, that of the model."""
        third = int(orientations.io_orientation(drawing.header.affine)[2, 0])
        axis, possible = _PLANES[third], self.proposals.prompted.axes
        return possible[0] if self.follows and axis not in possible else axis

    def _prompts(self, drawing: Drawing, axis: Axis, params: Mapping[str, Any]) -> tuple[dict[int, SlicePrompt], range]:
        """Slice -> prompt, and the slices that may be drawn on."""
        foreground, background = (_voxels(params.get(kind), kind) for kind in ("foreground", "background"))
        shape = drawing.header.shape
        box = _corners(params.get("roi"), shape)
        if not (foreground or box):
            raise InputError("foreground: there is no point in the structure, and no box. Place one first.")
        places = [Point(at=each) for each in foreground] + [Point(at=each, inside=False) for each in background]
        found = _on_slices(Prompt(label=_DRAWN, units="voxel", points=tuple(places)), drawing, axis) if places else {}
        reach = range(len(volume_to_slices(drawing.label, axis)))
        if box is not None:
            boxes = _on_slices(Prompt(label=_DRAWN, units="voxel", box=box), drawing, axis)
            inside = sorted(boxes)
            chosen = self._slice_of_box(inside, drawing, axis, params, found)
            found[chosen] = SlicePrompt(boxes[chosen].box, found[chosen].points if chosen in found else ())
            reach = range(inside[0], inside[-1] + 1)
        kept = {index: prompt for index, prompt in found.items() if _shows_something(prompt)}
        if self.proposals.prompted.points:
            return kept, reach
        return {index: _as_box(prompt) for index, prompt in kept.items()}, reach

    def _slice_of_box(
        self,
        inside: Sequence[int],
        drawing: Drawing,
        axis: Axis,
        params: Mapping[str, Any],
        points: Mapping[int, SlicePrompt],
    ) -> int:
        """The slice on which a box in space is drawn: the one that is shown, one with points, or the middle one."""
        shown = params.get("slice")
        if isinstance(shown, int) and not self.follows:
            x, y = ((length - 1) / 2 for length in drawing.header.shape[:2])
            if 0 <= shown < drawing.header.shape[2]:
                there = Prompt(label=_DRAWN, units="voxel", points=(Point(at=(x, y, shown)),))
                (index,) = _on_slices(there, drawing, axis)
                if index in inside:
                    return index
        with_points = [index for index in inside if index in points]
        return with_points[0] if with_points else inside[len(inside) // 2]


Model = Automatic | Interactive


def models_of(proposals: Proposals, classes: Mapping[int, str]) -> dict[str, Model]:
    """The models that a viewer may choose from, by name."""
    prompted = proposals.prompted.author.name
    models: dict[str, Model] = {}
    if proposals.automatic is not None:
        models[proposals.automatic.author.name] = Automatic(proposals, classes)
    models[f"{prompted}_slice"] = Interactive(proposals, classes, follows=False)
    models[f"{prompted}_volume"] = Interactive(proposals, classes, follows=True)
    return models


def _info(kind: str, labels: Any, dimension: int, description: str) -> dict[str, Any]:
    return {"type": kind, "labels": labels, "dimension": dimension, "description": description, "config": {}}


@dataclass(frozen=True)
class _AnyStructure:
    """One structure, whatever points at it."""

    axis: Axis
    class_names: Sequence[str] = ("structure",)
    label_ids: Sequence[int] = (_DRAWN,)
    prompt: PromptMode = "none"


def _on_slices(prompt: Prompt, drawing: Drawing, axis: Axis) -> dict[int, SlicePrompt]:
    shape, affine = drawing.header.shape, drawing.header.affine
    found = prompts_on_slices([prompt], _AnyStructure(axis), shape, affine)
    return {index: structures[_DRAWN] for index, structures in found.items()}


def _shows_something(prompt: SlicePrompt) -> bool:
    return prompt.box is not None or any(inside for _, _, inside in prompt.points)


def _as_box(prompt: SlicePrompt) -> SlicePrompt:
    """For a model that takes boxes alone: two points or more inside are the corners of one."""
    inside = [(x, y) for x, y, is_inside in prompt.points if is_inside]
    if prompt.box is not None:
        return SlicePrompt(prompt.box)
    if len(inside) < 2:
        return prompt  # the model refuses it in its own words
    (x0, y0), (x1, y1) = np.min(inside, axis=0).tolist(), np.max(inside, axis=0).tolist()
    return SlicePrompt(box=(x0, y0, x1, y1))


def _numbers(given: Any, count: int, what: str) -> tuple[float, ...]:
    values = tuple(given) if isinstance(given, list | tuple) else ()
    if len(values) != count or not all(isinstance(each, int | float) and abs(each) < 1e6 for each in values):
        raise InputError(f"{what}: {str(given)[:60]} is not {count} numbers. Send voxel indices.")
    return tuple(float(each) for each in values)


def _voxels(given: Any, kind: str) -> list[tuple[float, float, float]]:
    """Points as a viewer sends them: a list of [i, j, k]."""
    if not isinstance(given, Iterable) or isinstance(given, str | Mapping):
        given = [] if given is None else [given]
    found = []
    for each in given:
        x, y, z = _numbers(each, 3, kind)
        found.append((x, y, z))
    return found


def _corners(roi: Any, shape: Sequence[int]) -> tuple[Any, Any] | None:
    """The corners of a box [i0, i1, j0, j1, k0, k1] as far as it is inside the scan; None for an empty list."""
    if roi is None or roi == []:
        return None
    values = _numbers(roi, 6, "roi")
    low = [min(values[2 * place : 2 * place + 2]) for place in range(3)]
    high = [max(values[2 * place : 2 * place + 2]) for place in range(3)]
    if any(above < 0 or below > length - 1 for below, above, length in zip(low, high, shape, strict=True)):
        raise InputError(f"roi: the box lies outside the scan of {' × '.join(map(str, shape))} voxels. Move it.")
    last = [length - 1 for length in shape]
    clip = [(max(0.0, below), min(float(most), above)) for below, above, most in zip(low, high, last, strict=True)]
    return tuple(each[0] for each in clip), tuple(each[1] for each in clip)
