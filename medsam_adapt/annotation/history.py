"""What can be undone in a drawing: the slices that changed, as they were, and the notes on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from medsam_adapt.config import Axis
from medsam_adapt.data.prompts.simulated import SlicePrompt

_BYTES = 2**28  # that a scan keeps of slices as they were
_STEPS = 200
Place: TypeAlias = tuple[Axis, int]  # a slice: its plane and index
#: class id -> axis -> slice -> the prompt that a person drew there
Prompts: TypeAlias = dict[int, dict[Axis, dict[int, SlicePrompt]]]


@dataclass(eq=False)
class State:
    """Slices of a drawing and its notes; these are described at `medsam_adapt.annotation.drawing.Drawing`.

    Attributes:
        slices: (axis, index) -> label and authors' numbers, each (rows, columns).
        prompts: the drawing's.
        erased: the drawing's.
        edited: the drawing's.
    """

    slices: dict[Place, tuple[np.ndarray, np.ndarray]]
    prompts: Prompts
    erased: dict[int, dict[int, dict[int, int]]]
    edited: dict[int, dict[Axis, set[int]]]

    @property
    def nbytes(self) -> int:
        """Of the slices."""
        return sum(label.nbytes + drawn_by.nbytes for label, drawn_by in self.slices.values())


StateOf: TypeAlias = Callable[[Iterable[Place]], State]  # the state of a drawing now, with copies of these slices


@dataclass(eq=False)
class History:
    """Steps that can be undone, and those that were undone and can be made again. The drawing holds its lock."""

    _done: list[tuple[int | None, State]] = field(default_factory=list)  # (number of the step, as it was before)
    _undone: list[tuple[int | None, State]] = field(default_factory=list)

    def remember(self, places: Iterable[Place], step: int | None, now: StateOf) -> None:
        """Keep slices as they are before a change; changes of one ``step`` are one, unless it is None."""
        self._undone.clear()
        if step is None or not self._done or self._done[-1][0] != step:
            before = now(())
            notes = copy.deepcopy((before.prompts, before.erased, before.edited))
            self._done.append((step, State({}, *notes)))
        kept = self._done[-1][1].slices
        kept.update(now(place for place in places if place not in kept).slices)
        while len(self._done) > _STEPS or sum(state.nbytes for _, state in self._done[:-1]) > _BYTES:
            self._done.pop(0)

    def undo(self, now: StateOf) -> State | None:
        """The state before the last step; None where nothing can be undone."""
        return _go_back(self._done, self._undone, now)

    def redo(self, now: StateOf) -> State | None:
        """The state after the step that was undone last; None where nothing can be made again."""
        return _go_back(self._undone, self._done, now)


def _go_back(
    steps: list[tuple[int | None, State]], others: list[tuple[int | None, State]], now: StateOf
) -> State | None:
    if not steps:
        return None
    number, state = steps.pop()
    others.append((number, now(state.slices)))
    return state
