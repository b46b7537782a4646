"""``train --minutes``: how many epochs fit into a time budget, and the end of a training that would exceed it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Events
from pydantic import BaseModel

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import read_record
from medsam_adapt.runs.record import COST_FILE, CostRecord

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

_TIMED_STEPS = 6  # after two that also allocate and start workers
_MARGIN = 0.1  # of the time left, for steps that turn out slower, and for writing the run
_LAST = 0.97  # of the budget: a step that would begin later is not begun


class StepTimes(BaseModel):
    """Measured seconds of one step, of one validation, and of the frozen work before the first step."""

    step: float
    validation: float = 0.0
    frozen: float = 0.0

    def epochs(self, seconds: float, steps_per_epoch: int) -> int:
        """How many epochs of so many steps fit into ``seconds``; at least 1."""
        left = seconds * (1 - _MARGIN) - self.validation - self.frozen
        return max(1, int(left / (self.step * steps_per_epoch)))


def measure(flow: ConfigWorkflow) -> StepTimes:
    """Time real steps, and a validation on one held-out volume; the workflow's network is changed by it."""
    trainer: Any = flow.trainer
    frozen = flow.parser.get_parsed_content("frozen") if "frozen" in flow.parser else None
    batches, started, done = iter(trainer.data_loader), 0.0, 0
    while done < _TIMED_STEPS + 2:
        if done == 2:
            started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            batches = iter(trainer.data_loader)
            continue
        if frozen is not None:
            frozen.rehearse()
        trainer._process_function(trainer, batch)
        done += 1
    seconds = (time.perf_counter() - started) / _TIMED_STEPS
    rest = 0.0
    if frozen is not None and frozen.done:
        one = frozen.seconds / frozen.done
        seconds, rest = max(seconds - one * trainer.data_loader.batch_size, seconds / 10), one * frozen.steps
    return StepTimes(step=seconds, validation=_validation_seconds(flow), frozen=rest)


def _validation_seconds(flow: ConfigWorkflow) -> float:
    data = flow.parser.get_parsed_content("data")
    volumes = len(data.volumes())
    if not volumes:
        return 0.0
    started = time.perf_counter()
    validator: Any = flow.parser.get_parsed_content("validate#evaluator")
    validator.state.epoch_length = 1
    validator.run()
    return (time.perf_counter() - started) * volumes


@dataclass
class Deadline:
    """Handler of the trainer that ends the training when its time is over.

    Args:
        seconds: of the budget.
        started: `time.monotonic` when it began.
    """

    seconds: float
    started: float

    @classmethod
    def of(cls, minutes: float, started: float, run: Path, resume: bool) -> Deadline:
        """The deadline of a command that began at ``started``; a resumed run has what it has not used yet.

        Raises:
            InputError: the run has used all its time.
        """
        used = 0.0
        if resume and (run / COST_FILE).is_file():
            used = read_record(run / COST_FILE, CostRecord, "Restore it or train again.").seconds or 0.0
        if used >= 60 * minutes:
            raise InputError(f"{run}: it has used its {minutes:g} minutes. Begin another run with --from {run}.")
        return cls(60 * minutes - used, started)

    @property
    def left(self) -> float:
        """Seconds until it."""
        return self.started + self.seconds - time.monotonic()

    def attach(self, engine: Any) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)

    def _end(self, engine: Any) -> None:
        if self.left < (1 - _LAST) * self.seconds:
            engine.terminate()
