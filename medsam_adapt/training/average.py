"""An exponential moving average of the trained weights, which is what is validated and saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from ignite.engine import Events
from torch import Tensor, nn

from medsam_adapt.networks.parameters import trainable_tensors


class AverageWeights:
    """Handler of the trainer: a ← m a + (1 - m) w after every step, with m = min(keep, (1 + step) / (10 + step)).

    The average of the last steps generalises better than their last weights (Tarvainen and Valpola, Mean teachers are
    better role models, NeurIPS 2017). Early on it forgets faster, so that the start is soon left behind.

    Args:
        network: whose trained tensors are averaged.
        keep: share of the average that stays in a step.
    """

    def __init__(self, network: nn.Module, keep: float) -> None:
        self.keep = keep
        self.step = 0
        self._weights: dict[str, Tensor] = dict(trainable_tensors(network))
        self._average: dict[str, Tensor] = {}

    def attach(self, engine: Any) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)

    @torch.no_grad()
    def update(self, engine: Any = None) -> None:
        """Take the present weights into the average."""
        if not self._average:
            self._average = {name: tensor.detach().clone() for name, tensor in self._weights.items()}
        self.step += 1
        share = 1 - min(self.keep, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the average's weights in the block, and its own afterwards."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self, engine: Any = None) -> None:
        """Exchange the network's weights and the average."""
        for name, average in self._average.items():
            own = self._weights[name].detach().clone()
            self._weights[name].copy_(average)
            average.copy_(own)

    def state_dict(self) -> dict[str, Any]:
        """What is needed to resume."""
        return {"step": self.step, "average": {name: tensor.clone() for name, tensor in self._average.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` gave."""
        self.step = state["step"]
        devices = {name: tensor.device for name, tensor in self._weights.items()}
        self._average = {name: tensor.to(devices[name]).clone() for name, tensor in state["average"].items()}
