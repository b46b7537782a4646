"""A training step in two parts: what a batch gives as tensors, and what the device makes of them.

The first part asks loaders and moves data. The second runs on the device alone: no number is read back and no shape
depends on a value, so that a step never waits for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Prepared = tuple[Tensor | None, Tensor, tuple, dict[str, Any]]  # image, label, and further arguments of the network


class Update(ABC):
    """One training step, as ``iteration_update`` of MONAI's ``SupervisedTrainer``."""

    def __call__(self, engine: Any, batch: Any) -> list[dict[str, float]]:
        loss = self.step(engine, self.inputs(engine, batch))
        return [{"loss": loss.item()}]  # decollated, as MONAI's own update leaves its output

    @abstractmethod
    def inputs(self, engine: Any, batch: Any) -> Any:
        """What the step takes: tensors and plain values, in tuples and dictionaries."""

    @abstractmethod
    def step(self, engine: Any, inputs: Any) -> Tensor:
        """Train on ``inputs``, which stay as they are; the loss, a scalar without its graph."""

    def optimizers(self, engine: Any) -> Sequence[Optimizer]:
        """Those that the step moves, whose learning rates it reads."""
        return [engine.optimizer]


class PlainUpdate(Update):
    """What the trainer does by itself: forward, loss, backward, optimiser. In full precision, without accumulation."""

    def inputs(self, engine: Any, batch: Any) -> Prepared:
        return prepared(engine, batch)

    def step(self, engine: Any, inputs: Prepared) -> Tensor:
        image, label, args, kwargs = inputs
        engine.network.train()
        engine.optimizer.zero_grad()
        loss: Tensor = engine.loss_function(engine.inferer(image, engine.network, *args, **kwargs), label).mean()
        loss.backward()
        engine.optimizer.step()
        return loss.detach()


def prepared(engine: Any, batch: Any) -> Prepared:
    """A batch as the trainer's ``prepare_batch`` leaves it, on the device."""
    given: Prepared = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
    return given
