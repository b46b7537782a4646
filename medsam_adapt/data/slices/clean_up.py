"""What is done to each class of a predicted map, with the evidence for it, as a run's record has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from medsam_adapt.core.text import counted
from medsam_adapt.data.volumes.cleaning import Cleaning

Step = Literal["none", "holes", "small", "fragments", "largest"]  # in this order they are applied; the mildest first
_WORDS: dict[Step, str] = {
    "holes": "holes filled",
    "small": "small pieces removed",
    "fragments": "fragments removed",
    "largest": "largest piece alone",
}


class ClassCleanUp(BaseModel):
    """The step that was chosen for one class, and why.

    Attributes:
        name: of the class.
        step: ``none``; ``holes``: enclosed background becomes the class; ``small``: pieces of less than
            ``min_volume_ml`` are removed; ``fragments``: pieces of less than ``min_share`` of the largest one's volume
            are removed, and larger ones that lie farther away than ``longest_mm`` allows; ``largest``: all pieces but
            the largest are.
        min_volume_ml: for ``small``.
        min_share: for ``fragments``.
        longest_mm: for ``fragments``, as in `Cleaning`; 0 for no limit, as in runs of earlier versions.
        dsc: the mean DSC of the class with each step that was tried, and with ``none``.
        patients: how many the mean is over.
        held_out: whether these were held out of the training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    step: Step = "none"
    min_volume_ml: float = Field(default=0.0, ge=0)
    min_share: float = Field(default=0.0, ge=0, le=1)
    longest_mm: float = Field(default=0.0, ge=0)
    dsc: dict[Step, float] = {}
    patients: int = Field(default=0, ge=0)
    held_out: bool = False

    @property
    def cleaning(self) -> Cleaning:
        """The step as what does it."""
        limits = self.min_volume_ml, self.min_share, self.longest_mm
        return Cleaning(self.step == "largest", self.step == "holes", *limits)

    def rejects(self, step: Step) -> bool:
        """Whether the step cost accuracy where it was tried."""
        return step in self.dsc and self.dsc[step] < self.dsc["none"]


def joint_choice(choices: Sequence[ClassCleanUp]) -> ClassCleanUp | None:
    """The choice for one class of several runs that segment together: a step of one of them that none of them rejects.

    It is the step that most of them chose, the milder one of as many; None where there is no such step.
    """
    rejected = {each.step for each in choices if any(other.rejects(each.step) for other in choices)}
    wanted = [each for each in choices if each.step not in {"none", *rejected}]
    steps, order = [each.step for each in wanted], get_args(Step)

    def rank(choice: ClassCleanUp) -> tuple[float, ...]:
        mildest = max(choice.min_volume_ml, choice.min_share), -(choice.longest_mm or math.inf)
        return -steps.count(choice.step), order.index(choice.step), *mildest

    return min(wanted, key=rank, default=None)


def describe_clean_up(choices: Sequence[ClassCleanUp]) -> str:
    """One line on what was chosen for all classes; empty where there was nothing to choose."""
    if not choices:
        return ""
    patients, who = max(each.patients for each in choices), "held-out" if choices[0].held_out else "training"
    judged = f" (judged on {counted(patients, f'{who} patient')})" if patients else ""
    parts = []
    for step, words in _WORDS.items():
        if names := [_with_gain(each) for each in choices if each.step == step]:
            parts.append(f"{words}: {', '.join(names)}")
    return f"Clean-up{judged}: {'; '.join(parts) or 'none'}."


def _with_gain(choice: ClassCleanUp) -> str:
    if choice.step not in choice.dsc:
        return choice.name
    before, after = (f"{choice.dsc[step]:.3f}" for step in ("none", choice.step))
    return choice.name if before == after else f"{choice.name} (DSC {after}, {before} without)"
