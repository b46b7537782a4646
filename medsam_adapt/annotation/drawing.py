"""One scan that is open for drawing: its voxels, the label, and who drew each voxel of it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from medsam_adapt.annotation.history import History, Prompts, State
from medsam_adapt.config import Axis
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import class_key
from medsam_adapt.data.prompts.simulated import SlicePrompt, tight_box
from medsam_adapt.data.slices.geometry import volume_to_slices
from medsam_adapt.data.volumes.io import VolumeHeader, from_ras, to_ras

AuthorKind = Literal["person", "model", "imported"]


@dataclass(frozen=True)
class Author:
    """Who drew voxels.

    Attributes:
        kind: a person, a model, or ``imported`` for a label that existed before.
        name: the person's, the model's, or the file's.
        version: of a model, to find it again.
    """

    kind: AuthorKind
    name: str
    version: str = ""


@dataclass(eq=False)
class Drawing:
    """A scan in RAS order with the label that is being drawn on it.

    Attributes:
        id: the scan's.
        header: of the image; labels are written on its grid.
        image: (X, Y, Z) float32, or (X, Y, Z, images) of the images of a case.
        label: (X, Y, Z) uint8 class ids, 0 is background.
        drawn_by: (X, Y, Z) uint8, the author's number from 1 of each labelled voxel.
        authors: by number, the first one is number 1.
        prompts: that a person drew.
        edited: class id -> axis -> slices on which a person changed the class.
        erased: author's number -> class id -> axial slice -> how many voxels of others this author removed.
        accepted: class ids that were in the session when a person finished the label.
        changed: (axis, index) of slices that no journal has yet.
        version: counts the changes.
        saved: the version that is on disk.
        images: names of the images of the case; none for one.
        lock: held while the label is read or changed.
    """

    id: str
    header: VolumeHeader
    image: np.ndarray
    label: np.ndarray
    drawn_by: np.ndarray
    authors: list[Author] = field(default_factory=list)
    prompts: Prompts = field(default_factory=dict)
    edited: dict[int, dict[Axis, set[int]]] = field(default_factory=dict)
    erased: dict[int, dict[int, dict[int, int]]] = field(default_factory=dict)
    accepted: set[int] = field(default_factory=set)
    changed: set[tuple[Axis, int]] = field(default_factory=set)
    version: int = 0
    saved: int = 0
    images: tuple[str, ...] = ()
    lock: threading.RLock = field(default_factory=threading.RLock)
    _history: History = field(default_factory=History)

    @classmethod
    def of(cls, id: str, voxels: np.ndarray, header: VolumeHeader, images: Sequence[str] = ()) -> Drawing:
        """A drawing without any label yet, of voxels in the axis order of their file."""
        image, _ = to_ras(voxels, header.affine)
        label, drawn_by = (np.zeros(image.shape[:3], np.uint8, order="F") for _ in range(2))
        return cls(id, header, image, label, drawn_by, images=tuple(images))

    def grey(self, shown: int = 0) -> np.ndarray:
        """(X, Y, Z) of the image with this number, 0 everywhere where the case lacks it."""
        image = self.image[..., shown] if self.images else self.image
        return np.nan_to_num(image) if np.isnan(image.flat[0]) else image

    def seen_by(self, taken: Sequence[str], shown: int = 0) -> np.ndarray:
        """What a model sees: (X, Y, Z) of the image that is shown, or (X, Y, Z, images) of those that it takes.

        Raises:
            InputError: the case has other images than the model takes.
        """
        return self.grey(shown) if not taken else take_images(self.id, self.image, self.images, taken)

    @property
    def shape(self) -> tuple[int, ...]:
        """(X, Y, Z) in RAS order."""
        return self.label.shape

    @property
    def spacing(self) -> tuple[float, ...]:
        """Of the voxels in RAS order, mm."""
        _, affine = to_ras(np.broadcast_to(np.uint8(0), self.header.shape), self.header.affine)
        return tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))

    def slices(self, axis: Axis) -> np.ndarray:
        """A view (N, rows, columns) of the label that changes it when written to."""
        return volume_to_slices(self.label, axis)

    def native(self, values: np.ndarray) -> np.ndarray:
        """A view of ``values`` (X, Y, Z) in the axis order of the scan's file."""
        return from_ras(values, self.header.affine)

    def place(self, native: np.ndarray, author: Author, drawn_by: np.ndarray | None = None) -> None:
        """Take over a whole label (X, Y, Z) in the axis order of the scan's file.

        Args:
            native: class ids.
            author: of all voxels, unless ``drawn_by`` has the number of each one's author.
            drawn_by: (X, Y, Z) numbers of `authors`.
        """
        with self.lock:
            self.label[...] = to_ras(native, self.header.affine)[0]
            self.drawn_by[...] = 0
            if drawn_by is not None and int(drawn_by.max(initial=0)) <= len(self.authors):
                self.drawn_by[...] = to_ras(drawn_by, self.header.affine)[0]
            self.drawn_by[self.label == 0] = 0
            missing = (self.label > 0) & (self.drawn_by == 0)
            if missing.any():
                self.drawn_by[missing] = self.number_of(author)

    def number_of(self, author: Author) -> int:
        """The author's number, a new one if this author has drawn nothing yet."""
        if author not in self.authors:
            if len(self.authors) == 255:
                raise ValueError("a label has at most 255 authors")
            self.authors.append(author)
        return self.authors.index(author) + 1

    def paint(
        self,
        axis: Axis,
        slices: Mapping[int, np.ndarray],
        author: Author,
        step: int | None = None,
        prompts: Mapping[tuple[int, int], SlicePrompt] | None = None,
    ) -> int:
        """Replace slices of the label, and note who changed which voxels.

        Args:
            axis: the plane.
            slices: index -> (rows, columns) class ids.
            author: of the voxels that change.
            step: calls of the same number are undone together; every call by itself when None.
            prompts: (class id, index) -> what a person drew to get these slices.

        Returns:
            The new version.
        """
        with self.lock:
            number = self.number_of(author)
            self._history.remember(((axis, index) for index in slices), step, self._state)
            label, drawn_by = self.slices(axis), volume_to_slices(self.drawn_by, axis)
            places = volume_to_slices(self._axial_numbers(), axis)
            for index, values in slices.items():
                changed = label[index] != values
                self._note_erased(number, label[index], drawn_by[index], places[index], changed)
                if author.kind == "person":
                    for class_id in {*np.unique(label[index][changed]), *np.unique(values[changed])} - {0}:
                        self.edited.setdefault(int(class_id), {}).setdefault(axis, set()).add(index)
                drawn_by[index][changed] = np.where(values[changed] > 0, number, 0)
                label[index][changed] = values[changed]
            self.changed.update((axis, index) for index in slices)
            for (class_id, index), prompt in (prompts or {}).items():
                self.prompts.setdefault(class_id, {}).setdefault(axis, {})[index] = prompt
            self.version += 1
            return self.version

    def undo(self) -> dict[tuple[Axis, int], np.ndarray]:
        """Take the last change back; (axis, index) -> the slices (rows, columns) that are different now."""
        with self.lock:
            return self._take_over(self._history.undo(self._state))

    def redo(self) -> dict[tuple[Axis, int], np.ndarray]:
        """Make the change again that `undo` took back; slices as `undo`."""
        with self.lock:
            return self._take_over(self._history.redo(self._state))

    def _state(self, places: Iterable[tuple[Axis, int]]) -> State:
        """Copies of these slices, (axis, index), and the notes as they are."""
        slices = {}
        for axis, index in places:
            label, drawn_by = self.slices(axis)[index], volume_to_slices(self.drawn_by, axis)[index]
            slices[axis, index] = label.copy(), drawn_by.copy()
        return State(slices, self.prompts, self.erased, self.edited)

    def _take_over(self, state: State | None) -> dict[tuple[Axis, int], np.ndarray]:
        if state is None:
            return {}
        for (axis, index), (label, drawn_by) in state.slices.items():
            self.slices(axis)[index] = label
            volume_to_slices(self.drawn_by, axis)[index] = drawn_by
        self.prompts, self.erased, self.edited = state.prompts, state.erased, state.edited
        self.changed.update(state.slices)
        self.version += 1
        return {place: label for place, (label, _) in state.slices.items()}

    def key_boxes(self, class_id: int, axis: Axis) -> dict[int, SlicePrompt]:
        """Slices from which a class can be propagated, with a box on each: those that a person worked on.

        A box that was drawn is taken as it is; where a person drew or corrected the mask, the box around the mask.
        """
        with self.lock:
            prompts = self.prompts.get(class_id, {}).get(axis, {})
            edited = self.edited.get(class_id, {}).get(axis, set())
            people = [number for number, each in enumerate(self.authors, start=1) if each.kind != "model"]
            masks = self.slices(axis) == class_id
            by_people = volume_to_slices(np.isin(self.drawn_by, people), axis) & masks
            found: dict[int, SlicePrompt] = {}
            for index in np.flatnonzero(masks.any(axis=(1, 2))).tolist():
                prompt = prompts.get(index)
                if prompt is not None and prompt.box is not None and index not in edited:
                    found[index] = prompt
                elif prompt is not None or index in edited or by_people[index].any():
                    found[index] = box_of(masks[index])
            return found

    def emptied(self, class_id: int, axis: Axis) -> set[int]:
        """Slices from which a person removed a class: it is not propagated to them again."""
        with self.lock:
            masks = self.slices(axis)
            edited = self.edited.get(class_id, {}).get(axis, set())
            return {index for index in edited if not (masks[index] == class_id).any()}

    def worked_on(self) -> set[int]:
        """Class ids that a person drew, pointed at, corrected, or accepted with a finished label."""
        with self.lock:
            people = [number for number, each in enumerate(self.authors, start=1) if each.kind != "model"]
            drawn = np.unique(self.label[np.isin(self.drawn_by, people)]).tolist() if people else []
            pointed_at = {class_id for class_id, axes in self.prompts.items() if any(axes.values())}
            return {*drawn, *pointed_at, *self.edited, *self.accepted} - {0}

    def snapshot(self) -> Drawing:
        """A copy as it is now, without what can be undone, to be written while this one changes."""
        with self.lock:
            prompts, edited, erased, accepted = copy.deepcopy((self.prompts, self.edited, self.erased, self.accepted))
            return replace(
                self,
                label=self.label.copy(order="F"),
                drawn_by=self.drawn_by.copy(order="F"),
                authors=[*self.authors],
                prompts=prompts,
                edited=edited,
                erased=erased,
                accepted=accepted,
                changed=set(),
                lock=threading.RLock(),
                _history=History(),
            )

    def _axial_numbers(self) -> np.ndarray:
        return np.broadcast_to(np.arange(self.shape[2]), self.shape)

    def _note_erased(
        self, number: int, before: np.ndarray, drawn_by: np.ndarray, places: np.ndarray, changed: np.ndarray
    ) -> None:
        """Count voxels that ``number`` took from other authors."""
        lost = changed & (before > 0) & (drawn_by != number)
        pairs, counts = np.unique(np.stack([before[lost], places[lost]]), axis=1, return_counts=True)
        for (class_id, index), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            there = self.erased.setdefault(number, {}).setdefault(class_id, {})
            there[index] = there.get(index, 0) + count


def take_images(scan: str, voxels: np.ndarray, names: Sequence[str], taken: Sequence[str]) -> np.ndarray:
    """(X, Y, Z, images) of those that a model takes, in its order; all of them as they are where it takes none by name.

    Raises:
        InputError: the case has other images.
    """
    keys = [class_key(name) for name in names]
    if not taken or keys == [class_key(name) for name in taken]:
        return voxels
    if {*keys} != {class_key(name) for name in taken}:
        theirs = f"the images {', '.join(names)}" if names else "one image"
        raise InputError(
            f"{scan}: it has {theirs}, and the model takes {', '.join(taken)} together. Give a folder with these."
        )
    return voxels[..., [keys.index(class_key(name)) for name in taken]]


def box_of(mask: np.ndarray) -> SlicePrompt:
    """The box around a mask (rows, columns) that is not empty."""
    box = tight_box(mask)
    assert box is not None, "the mask is not empty"
    x0, y0, x1, y1 = (float(value) for value in box)
    return SlicePrompt(box=(x0, y0, x1, y1))
