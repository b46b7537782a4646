"""How the numbers in label files become classes, which exclude each other or overlap.

Classes that exclude each other are numbered 1, 2, … in one label map. Classes that may overlap are kept as a *part
map*: every voxel holds the number of a combination of classes (0 for none), and a table (P, C) lists which classes a
part belongs to. A part map is sliced, resized, cropped, augmented and cached as any label map; only a loss or a score
looks up the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.io import VolumeHeader, read_label

IGNORED = 255  # in maps of classes, in tables and in masks: nobody knows, so it is neither trained on nor scored
MOST_CLASSES = 254  # a class is stored in a byte, and 255 is taken

LabelSource: TypeAlias = str | Path | Mapping[int, str | Path]  # a label map, or class id -> its mask


@dataclass(frozen=True)
class LabelCoding:
    """What the numbers in a data set's label files mean.

    Attributes:
        parts: number in the files -> ids of the classes it belongs to; None where each number is the id of its class.
        ignored: numbers of voxels that nobody labelled.
        overlapping: whether a voxel may belong to several classes.
        painted: class id -> the label that it is painted with, in this order, where overlapping classes are written
            into one label map (nnU-Net's ``regions_class_order``); empty where each class has a mask.
    """

    parts: Mapping[int, tuple[int, ...]] | None = None
    ignored: tuple[int, ...] = ()
    overlapping: bool = False
    painted: Mapping[int, int] = field(default_factory=dict)


EXCLUSIVE = LabelCoding()


def read_classes(
    source: LabelSource,
    label_ids: Sequence[int],
    coding: LabelCoding = EXCLUSIVE,
    like: VolumeHeader | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """A label as the network's classes.

    Args:
        source: a label map's file, or one mask's file for each class id (any value above 0 is inside).
        label_ids: ids of the classes wanted; the i-th becomes class i + 1, all others background.
        coding: of the files.
        like: the image's header, on whose grid the label is wanted (`read_label`).

    Returns:
        (X, Y, Z) classes and None; for classes that may overlap parts, and their table (P, C) uint8: 1 where the part
        belongs to the class, 0 where not, or `IGNORED`. Part 0 belongs to none.

    Raises:
        InputError: as `read_label`.
    """
    if isinstance(source, Mapping):
        return _join_masks(source, label_ids, like)
    label, _ = read_label(source, like)
    if not coding.overlapping:
        return renumber(label, label_ids, coding), None
    rows = _memberships(label_ids, coding, int(label.max(initial=0)))
    table, numbers = np.unique(np.vstack([np.zeros_like(rows[:1]), rows]), axis=0, return_inverse=True)
    return _smallest(numbers.reshape(-1)[1:], len(table))[label], table


def renumber(label: np.ndarray, label_ids: Sequence[int], coding: LabelCoding = EXCLUSIVE) -> np.ndarray:
    """Classes 1, 2, … (uint8) for the label ids in their order; every other id becomes background."""
    rows = _memberships(label_ids, coding, int(label.max(initial=0)))
    numbers = np.where(rows.any(axis=1), rows.argmax(axis=1) + 1, 0).astype(np.uint8)
    numbers[(rows == IGNORED).any(axis=1)] = IGNORED
    return numbers[label]


def _memberships(label_ids: Sequence[int], coding: LabelCoding, highest: int) -> np.ndarray:
    """(highest + 1, C) uint8: whether each number in the files belongs to each class, or is ignored."""
    rows = np.zeros((highest + 1, len(label_ids)), dtype=np.uint8)
    parts = {label_id: (label_id,) for label_id in label_ids} if coding.parts is None else coding.parts
    for number, classes in parts.items():
        if number <= highest:
            rows[number] = np.isin(label_ids, classes)
    rows[[number for number in coding.ignored if number <= highest]] = IGNORED
    return rows


def _join_masks(
    masks: Mapping[int, str | Path], label_ids: Sequence[int], like: VolumeHeader | None
) -> tuple[np.ndarray, np.ndarray]:
    """The part map of the combinations that occur, and its table."""
    shape: tuple[int, ...] | None = None
    parts, table = np.zeros(1, dtype=np.int64), np.zeros((1, len(label_ids)), dtype=np.uint8)
    for index, label_id in enumerate(label_ids):
        if label_id not in masks:
            continue
        mask, _ = read_label(masks[label_id], like)
        if shape is None:
            shape = mask.shape
            parts = np.zeros(shape, dtype=np.int64)
        elif mask.shape != shape:
            raise InputError(
                f"{masks[label_id]}: its size differs from that of the case's other masks. Export it again."
            )
        parts, table = _split_parts(parts, table, mask > 0, index)
    if shape is None:  # not one of the classes: any mask has the size
        mask, _ = read_label(next(iter(masks.values())), like)
        parts = np.zeros(mask.shape, dtype=np.int64)
    return _smallest(parts, len(table)), table


def _split_parts(parts: np.ndarray, table: np.ndarray, mask: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Each part split into what lies outside a mask and what lies inside, of which class ``index`` is."""
    split = 2 * parts + mask
    present = np.flatnonzero(np.bincount(split.ravel(), minlength=1))
    present = np.union1d([0], present)  # part 0 stays, whether or not a voxel is left in it
    numbers = np.zeros(int(present[-1]) + 1, dtype=np.int64)
    numbers[present] = np.arange(len(present))
    rows = table[present // 2]
    rows[:, index] = present % 2
    return numbers[split], rows


def parts_of(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part map (X, Y, Z) of masks (C, X, Y, Z) of 0, 1 or `IGNORED`, and its table; part 0 belongs to no class."""
    rows = masks.reshape(len(masks), -1).T
    marked = rows.any(axis=1)
    found, numbers = np.unique(rows[marked], axis=0, return_inverse=True)
    parts = np.zeros(len(rows), dtype=np.int64)
    parts[marked] = numbers.reshape(-1) + 1
    table = np.concatenate([np.zeros_like(rows[:1]), found])
    return _smallest(parts, len(table)).reshape(masks.shape[1:]), table


def _smallest(numbers: np.ndarray, count: int) -> np.ndarray:
    return numbers.astype(np.min_scalar_type(max(count - 1, 1)))


# -------------------------------------------------------------------------------------- what a map of either kind holds


def classes_in(labels: np.ndarray, table: np.ndarray | None = None) -> np.ndarray:
    """Numbers (from 1) of the classes that have a pixel in a map of classes, or of parts with their ``table``."""
    present = np.unique(labels)
    if table is None:
        return present[(present > 0) & (present != IGNORED)]
    return np.flatnonzero((table[present] == 1).any(axis=0)) + 1


def count_classes(labels: np.ndarray, count: int, table: np.ndarray | None = None) -> np.ndarray:
    """Voxels (C + 1,) of the background and of every class in a map of classes, or of parts with their ``table``."""
    if table is None:
        return np.bincount(labels.ravel(), minlength=count + 1)[: count + 1]
    voxels = np.bincount(labels.ravel(), minlength=len(table))
    return np.array([voxels @ ~table.any(axis=1), *(voxels @ (table == 1))])


def mask_of(labels: np.ndarray, number: int, table: np.ndarray | None = None) -> np.ndarray:
    """Mask of one class (from 1) as uint8, `IGNORED` where nobody knows."""
    if table is None:
        return np.where(labels == IGNORED, IGNORED, labels == number).astype(np.uint8)
    return table[:, number - 1][labels]


class PartMasks(Mapping[str, np.ndarray]):
    """The masks (bool) of overlapping classes by name, each drawn from the part map when it is asked for.

    Args:
        parts: part map of any shape.
        table: (P, C).
        class_names: of the C classes.
    """

    def __init__(self, parts: np.ndarray, table: np.ndarray, class_names: Sequence[str]) -> None:
        self.parts, self.table, self.class_names = parts, table, list(class_names)

    def __getitem__(self, name: str) -> np.ndarray:
        return mask_of(self.parts, self.class_names.index(name) + 1, self.table) == 1

    def __iter__(self) -> Iterator[str]:
        return iter(self.class_names)

    def __len__(self) -> int:
        return len(self.class_names)
