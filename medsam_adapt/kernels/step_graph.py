"""A training step recorded as one CUDA graph: forward, loss, backward and optimisers, started by a single call.

The kernels of a small step take less time than to start them one by one from Python: SAM-PARSER's with cached features
were 51 ms for 3.5 ms of work on the first card at hand. What is recorded reads and writes the tensors that it was
recorded with: a batch is copied into its inputs, and learning rates, which change with every step, into a tensor.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from medsam_adapt.core.update import Update, over_tensors, tensors_of

WARM_UP = 3  # steps of each kind before it is recorded: compiling, trials of kernels, and the optimisers' moments
MOST_KINDS = 4  # of batches; each keeps its inputs, and shares what is made inside with the others
Step = Callable[[], Tensor]


class Recorder(Protocol):
    """Runs steps, and records them."""

    def run(self, step: Step) -> Tensor:
        """Do the step now; its loss."""

    def record(self, step: Step) -> Step:
        """What does the step again whenever it is called; nothing is computed yet."""


class CudaRecorder:
    """Steps on a stream of their own, as recording wants it from the first one on; those before and after wait."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, step: Step) -> Tensor:
        around = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(around)
        with torch.cuda.stream(self.stream):
            loss = step()
        around.wait_stream(self.stream)
        return loss

    def record(self, step: Step) -> Step:
        gc.collect()  # what Python has not let go of may still belong to the stream of an earlier step
        graph = torch.cuda.CUDAGraph()
        try:
            # Within the present stream, for a failure leaves the other one behind.
            here = torch.cuda.stream(torch.cuda.current_stream(self.device))
            with here, torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                loss = step()
        except Exception:
            self._end()
            raise

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay

    def _end(self) -> None:
        """Let go of the random generator, which a recording that failed has left believing that it goes on."""
        index = self.device.index if self.device.index is not None else torch.cuda.current_device()
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())


class StepGraph:
    """An update as ``iteration_update`` of MONAI's ``SupervisedTrainer``, recorded when it has run a few times.

    Batches of other shapes, or with other plain values among their inputs, are other kinds. The first steps of each
    kind are done as they are, and so are all of kinds that come when there are many already. Where recording fails, a
    warning says why, and steps go on as they are.

    Args:
        update: what is done; its step waits for nothing, and draws at random only from the device's own generator.
        recorder: for the device of the inputs when None.
    """

    def __init__(self, update: Update, recorder: Recorder | None = None) -> None:
        self.update = update
        self.recorder = recorder
        self.records = True
        self._kinds: dict[str, _Kind] = {}
        self._rates: _Rates | None = None

    def __call__(self, engine: Any, batch: Any) -> list[dict[str, float]]:
        inputs = over_tensors(lambda tensor: tensor.as_subclass(Tensor), self.update.inputs(engine, batch))
        return [{"loss": self._loss(engine, inputs).item()}]

    def forget(self) -> None:
        """Drop what is recorded: the optimisers hold other tensors now."""
        self._kinds.clear()

    def _loss(self, engine: Any, inputs: Any) -> Tensor:
        recorder, rates = self._prepare(engine, inputs)
        kind = self._kind_of(inputs)
        if kind is not None:
            kind.take(inputs)
            if kind.seen == WARM_UP:
                self._record(engine, recorder, rates, kind)
            kind.seen += 1
            if kind.replay is not None:
                return kind.replay()
            inputs = kind.inputs
        if not self.records:
            return recorder.run(lambda: self.update.step(engine, inputs))
        with rates.read():  # as when it is recorded, so that it makes no difference which steps are
            return recorder.run(lambda: self.update.step(engine, inputs))

    def _prepare(self, engine: Any, inputs: Any) -> tuple[Recorder, _Rates]:
        """With the first batch, when the device is known."""
        if self.recorder is None:
            self.recorder = CudaRecorder(tensors_of(inputs)[0].device)
        if self._rates is None:
            self._rates = _Rates(self.update.optimizers(engine))
            for optimizer in self._rates.optimizers:
                optimizer.register_load_state_dict_post_hook(lambda _: self.forget())
        self._rates.refresh()
        return self.recorder, self._rates

    def _kind_of(self, inputs: Any) -> _Kind | None:
        name = repr(over_tensors(lambda tensor: (tuple(tensor.shape), tensor.dtype), inputs))
        if name not in self._kinds and self.records and len(self._kinds) < MOST_KINDS:
            self._kinds[name] = _Kind(over_tensors(torch.clone, inputs))
        return self._kinds.get(name)

    def _record(self, engine: Any, recorder: Recorder, rates: _Rates, kind: _Kind) -> None:
        def step() -> Tensor:
            with rates.read(capturable=True):
                return self.update.step(engine, kind.inputs)

        try:
            kind.replay = recorder.record(step)
        except Exception as error:  # whatever a driver, a kernel or somebody's method may raise
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            logging.getLogger(__name__).warning(
                "The training step could not be recorded as a CUDA graph (%s); it goes on without, slower.", reason
            )
            self.records = False
            self.forget()
        for optimizer in rates.optimizers:  # gradients lie in the recording's own memory
            optimizer.zero_grad()


@dataclass
class _Kind:
    """Batches of one kind: what their steps read, how many there were, and the recording once there is one."""

    inputs: Any
    seen: int = 0
    replay: Step | None = None

    @torch.no_grad()
    def take(self, inputs: Any) -> None:
        for own, given in zip(tensors_of(self.inputs), tensors_of(inputs), strict=True):
            own.copy_(given)


class _Rates:
    """The learning rates of optimisers as numbers on their device.

    Between steps the optimisers keep plain numbers, which schedules change and checkpoints hold as in any training.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = optimizers
        self.values: list[float] = []
        self.tensor = torch.zeros(len(self._groups()), device=self._groups()[0]["params"][0].device)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def refresh(self) -> None:
        """Bring them to what they are now."""
        values = [float(group["lr"]) for group in self._groups()]
        if values != self.values:
            self.values = values
            self.tensor.copy_(torch.tensor(values))

    @contextmanager
    def read(self, **settings: Any) -> Iterator[None]:
        """Within the block the optimisers read them from the device, and have these ``settings``."""
        groups = self._groups()
        kept = [dict(group) for group in groups]
        for group, rate in zip(groups, self.tensor, strict=True):
            group.update(settings, lr=rate)
        try:
            yield
        finally:
            for group, before in zip(groups, kept, strict=True):
                group.clear()
                group.update(before)
