"""The balance of the classes in cross-entropy over a training: full at its start, none at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ignite.engine import Events

from medsam_adapt.methods.losses import SegmentationLoss

if TYPE_CHECKING:
    from medsam_adapt.training.time_budget import TimeBudget

FADED = 0.7  # of the training, after which all pixels weigh alike


class FadingBalance:
    """Handler that lowers the ``balance`` of a loss step by step, to zero at `FADED` of the training.

    Weights bring rare classes forth, and draw them too large: they are needed until every class is found.

    Args:
        loss: whose ``balance`` is that of the first step.
        budget: the time budget, where the training has one.
    """

    def __init__(self, loss: SegmentationLoss, budget: TimeBudget | None = None) -> None:
        self.loss, self.budget, self.first = loss, budget, loss.balance

    def attach(self, engine: Any) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Any) -> None:
        if self.budget is not None:
            share = self.budget.share
        else:
            share = (engine.state.iteration - 1) / (engine.state.max_epochs * engine.state.epoch_length)
        self.loss.balance = self.first * max(0.0, 1 - share / FADED)
