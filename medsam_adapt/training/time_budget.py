"""``train --minutes``: a training that ends when its time is over, and what a time budget buys.

The learning rate follows the share of the time that is used, not the number of steps: it reaches zero at the end
however fast the steps turn out to be, as in Li et al., Budgeted Training, ICLR 2020.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Events
from monai.data import decollate_batch
from pydantic import BaseModel

from medsam_adapt.core.distributed import from_main_process
from medsam_adapt.data.slices.geometry import count_slices

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow
    from monai.engines import SupervisedEvaluator

PARTS = 1000  # of the budget, in which the schedules of the learning rates move
_TIMED_STEPS = 7  # after two that also allocate and start workers
_CLOSING = 2.0  # seconds that are kept for starting Python, writing the weights and leaving the process
_CLOSING_SHARE = 0.03  # of the budget, at most
_SLOWER = 1.2  # a validation may take that much longer than the volume that was timed
_JUDGING_SHARE = 0.1  # of the budget, for training volumes by which a clean-up is judged
_JUDGING_ONE = 0.2  # of the budget, that a single volume may take: without any, wrong removals would go unnoticed
_TIMED_SLICES = 16
_ENDLESS = 10**9  # epochs


class TimeBudget:
    """Handler of the trainer that moves the learning rates along the time used, and ends the training at its end.

    What is used is part of the checkpoint, so a resumed training has what is left. Of several processes that train
    together the first one's clock decides.

    Args:
        seconds: of the budget, from :attr:`started` to the end of the last validation.
        schedules: of the learning rates, `PARTS` steps long.
        validator: runs once when the training has ended; its time is kept free. It may have no volumes.
        clock: seconds of a clock that never goes back.

    Attributes:
        started: when the budget began, by the clock; set it to count what came before the trainer was made.
        share: of the training's time that is used, 0 to 1.
    """

    def __init__(
        self,
        seconds: float,
        schedules: Iterable[Any] = (),
        validator: SupervisedEvaluator | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.schedules, self.validator, self.clock = seconds, list(schedules), validator, clock
        self.started = clock()
        self.share = 0.0
        self._before = 0.0  # seconds used up to the checkpoint that the training continues from
        self._first = self._last = self._longest = 0.0  # seconds used before the first step and the last; of a step

    parts = PARTS

    @property
    def part(self) -> int:
        """How many of the `parts` of the budget are used."""
        return round(self.share * PARTS)

    def attach(self, engine: Any) -> None:
        """Register with the trainer, after what restores a checkpoint."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def state_dict(self) -> dict[str, float]:
        """What is needed to resume."""
        return {"used": self._used(), "first": self._first}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Resume from what `state_dict` gave."""
        self._before, self._first = state["used"], state["first"]

    def _used(self) -> float:
        return self._before + self.clock() - self.started

    def _start(self, engine: Any) -> None:
        engine.state.max_epochs = _ENDLESS
        validation = 0.0 if self.validator is None else self._seconds_kept(self.validator)
        closing = min(_CLOSING, _CLOSING_SHARE * self.seconds)
        self._end = self.seconds - validation - closing
        self._last = self._used()
        if not self._before:
            self._first = self._last

    def _seconds_kept(self, validator: SupervisedEvaluator) -> float:
        """What the validation takes; fewer training volumes judge a clean-up where they would take too long."""
        choice = getattr(validator, "clean_up", None)
        if choice is None or choice.held_out:
            return _SLOWER * seconds_of_validation(validator, self.clock)
        volumes: Any = validator.data_loader
        one = _SLOWER * seconds_of_volume(validator, self.clock)
        most = max(int(_JUDGING_SHARE * self.seconds / max(one, 1e-9)), int(one <= _JUDGING_ONE * self.seconds))
        choice.most = from_main_process(min(len(volumes), most))
        return choice.most * one

    def _step(self, engine: Any) -> None:
        now = self._used()
        # Not a mean: a step that waits for a checkpoint or another program does not predict the next one.
        self._longest = max(now - self._last, 0.9 * self._longest) if engine.state.iteration > 1 else 0.0
        self._last = now
        left = self._end - now
        share = 1.0 if left <= 0 else (now - self._first) / (self._end - self._first)
        self.share, over = from_main_process((min(share, 1.0), left < self._longest / 2))
        for schedule in self.schedules:
            while schedule.last_epoch < self.part:
                schedule.step()
        if over:
            engine.terminate()


def seconds_of_validation(validator: SupervisedEvaluator, clock: Callable[[], float] = time.monotonic) -> float:
    """About how long a validation takes, from one volume; the validator's state stays as it is."""
    volumes: Any = validator.data_loader
    started = clock()
    batch = next(iter(volumes), None)
    if batch is None:
        return 0.0
    training = validator.network.training
    validator.network.eval()
    try:
        image, _, args, keywords = validator.prepare_batch(batch, validator.state.device)
        prediction = validator.inferer(image, validator.network, *args, **keywords)
        if (choice := getattr(validator, "clean_up", None)) is not None:
            choice.scores_of(decollate_batch(batch)[0], prediction[0])
    finally:
        validator.network.train(training)
    return (clock() - started) * len(volumes)


def seconds_of_volume(validator: SupervisedEvaluator, clock: Callable[[], float] = time.monotonic) -> float:
    """About how long a validator takes for its first volume, from a few slices of it in each direction."""
    started = clock()
    batch = next(iter(validator.data_loader))
    image, _, args, keywords = validator.prepare_batch(batch, validator.state.device)
    seconds = clock() - started
    inferer: Any = validator.inferer
    # From the middle: the network skips slices without any signal, which a corner may be full of.
    first = [max(0, (side - _TIMED_SLICES) // 2) for side in image.shape[2:]]
    middle = image[(..., *(slice(each, each + _TIMED_SLICES) for each in first))]
    sizes = [
        sum(count_slices(each.shape[2:], np.eye(4), plane.axis) for plane in inferer.slicing.planes)
        for each in (image, middle)
    ]
    training = validator.network.training
    validator.network.eval()
    try:
        for _ in range(2):  # the first pass also allocates
            started = clock()
            inferer(middle, validator.network, *args, **keywords)
    finally:
        validator.network.train(training)
    return seconds + (clock() - started) * sizes[0] / sizes[1]


class StepTimes(BaseModel):
    """Measured seconds of one step, of one validation, and of the frozen work before the first step."""

    step: float
    validation: float = 0.0
    frozen: float = 0.0

    def epochs(self, seconds: float, steps_per_epoch: int) -> int:
        """How many epochs of so many steps fit into ``seconds``; at least 1."""
        left = seconds - self.validation - self.frozen
        return max(1, int(left / (self.step * steps_per_epoch)))


def measure(flow: ConfigWorkflow) -> StepTimes:
    """Time real steps, and a validation on one held-out volume; the workflow's network is changed by it."""
    trainer: Any = flow.trainer
    frozen = flow.parser.get_parsed_content("frozen") if "frozen" in flow.parser else None
    batches = iter(trainer.data_loader)
    seconds: list[float] = []
    while len(seconds) < _TIMED_STEPS + 2:
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            batches = iter(trainer.data_loader)
            continue
        if frozen is not None:
            frozen.rehearse()
        trainer._process_function(trainer, batch)
        seconds.append(time.perf_counter() - started)
    step, rest = statistics.median(seconds[2:]), 0.0
    if frozen is not None and frozen.done:
        one = frozen.seconds / frozen.done
        step, rest = max(step - one * trainer.data_loader.batch_size, step / 10), one * frozen.steps
    held_out = flow.parser.get_parsed_content("data").volumes()
    validator: Any = flow.parser.get_parsed_content("validate#evaluator") if held_out else None
    return StepTimes(step=step, validation=0.0 if validator is None else seconds_of_validation(validator), frozen=rest)
