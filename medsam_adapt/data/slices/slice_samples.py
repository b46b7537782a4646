"""The samples of a training: which slices they are, what they show, and in which half of the training set they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medsam_adapt.data.slices.slice_store import StoredCase

Part = Literal["train", "first_half", "second_half"]
_FEWEST_PATIENTS = 4  # that are halved
_BLOCKS, _SMALLEST_BLOCK = 8, 4  # of slices, where patients are fewer


@dataclass(frozen=True)
class Halves:
    """The training set halved, as BLO-SAM's D1 and D2: by patient, or where they are few by blocks of slices.

    Attributes:
        patients: of the training cases, by case id.
        seed: of the draw of patients.
    """

    patients: Mapping[str, str]
    seed: int

    @property
    def by(self) -> Literal["patients", "slices"]:
        """What is in one half as a whole."""
        return "patients" if len({*self.patients.values()}) >= _FEWEST_PATIENTS else "slices"

    def of(self, case_id: str, slices: np.ndarray, part: Part) -> np.ndarray:
        """Those of a case's ``slices`` (N,) that are in ``part``."""
        if part == "train":
            return slices
        if self.by == "slices":
            # Blocks in turn, not one half of the body each: an organ that D1 lacks would never be learnt.
            blocks = np.array_split(slices, max(2, min(_BLOCKS, slices.size // _SMALLEST_BLOCK)))
            return np.concatenate(blocks[0 if part == "first_half" else 1 :: 2])
        patients = np.random.default_rng(self.seed).permutation(sorted({*self.patients.values()}))
        in_first = self.patients[case_id] in patients[: (len(patients) + 1) // 2]
        return slices if in_first == (part == "first_half") else slices[:0]


def samples_of(name: str, stored: StoredCase, slices: np.ndarray, prompted: bool) -> Iterator[dict[str, Any]]:
    """{case, slice} of each of ``slices`` (N,); if ``prompted`` {case, slice, structure} of each structure there."""
    for index in slices:
        sample = {"case": name, "slice": int(index)}
        if prompted:
            yield from ({**sample, "structure": int(structure)} for structure in stored.classes_in(index))
        else:
            yield sample


def memberships(
    samples: Sequence[Mapping[str, Any]], stored: Mapping[str, StoredCase], classes: int, prompted: bool
) -> np.ndarray:
    """(N, C) bool: which of the C ``classes`` each of N samples shows, or if ``prompted`` which one it is of."""
    if prompted:
        return np.stack([np.arange(1, classes + 1) == sample["structure"] for sample in samples])
    return np.stack([stored[sample["case"]].voxels[sample["slice"], 1:] > 0 for sample in samples])
