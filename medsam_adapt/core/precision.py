"""How a network is run: in which precision, how much of a batch at once, and what is kept for the gradient."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

IN_BF16 = "The image encoder computes in bf16: --precision fp32 is slower and more exact."
_KEPT_STAGES = 2  # of the encoder's end: the last block, with whose gradient a step's memory is at its most, and neck
_LARGE = 2**22  # bytes of what enters a block; holes of that size in the process's memory are worth giving back
_GIVE_BACK_EVERY = 6  # stages, and before those that are kept; for ViT-B more often frees little more and takes longer


@dataclass(frozen=True)
class Running:
    """Settings of an encoder that change its speed and its memory, not its weights.

    Attributes:
        precision: ``fp32``; ``bf16`` for products in half the width (bfloat16), weights and sums staying as they are;
            ``auto`` for bf16 on a GPU and fp32 elsewhere.
        low_memory: whether the inside of each stage but the last two is computed again for the gradient instead of
            being kept, all but what takes long and is small on a processor (:func:`computed_once`).
    """

    precision: str = "fp32"
    low_memory: bool = False

    def is_bf16(self, device: torch.device) -> bool:
        """Whether products are in bfloat16 on this device."""
        return self.precision == "bf16" or (self.precision == "auto" and device.type == "cuda")

    def run(self, stages: Sequence[Callable[[Tensor], Tensor]], value: Tensor) -> Tensor:
        """``value`` through all stages, in single precision at the end."""
        if not self.is_bf16(value.device):  # whatever surrounds it, such as autocast of the caller's
            return self._run(stages, value)
        with torch.autocast(value.device.type, torch.bfloat16):
            return self._run(stages, value).float()

    def _run(self, stages: Sequence[Callable[[Tensor], Tensor]], value: Tensor) -> Tensor:
        if not (self.low_memory and torch.is_grad_enabled()):
            for stage in stages:
                value = stage(value)
            return value
        again = len(stages) - _KEPT_STAGES
        for index, stage in enumerate(stages):
            if 0 < index <= again and (again - index) % _GIVE_BACK_EVERY == 0:
                _give_back(value)
            if index < again:
                value = checkpoint(stage if is_recorded() else _Again(stage), value, use_reentrant=False)
            else:
                value = stage(value)
        return value


def _give_back(state: Tensor | tuple[Tensor, ...]) -> None:
    """Give the system the memory that this process has freed but cannot use again, where the C library can (glibc).

    It finds no room for a tensor in the hole that one of the same size has left, for it wants some bytes more to
    align it: holes of all stages that are computed again add up, to half a gigabyte for ViT-B at 1024 pixels.

    Args:
        state: what is being computed; nothing is done if it is small, or not in this memory.
    """
    value = state if isinstance(state, Tensor) else state[0]
    if sys.platform == "linux" and value.device.type == "cpu" and value.nbytes >= _LARGE and not is_recorded():
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class _Again:
    """A stage that is called once, and again for the gradient: each of its expensive results is kept.

    Args:
        stage: gives the same in every call.

    Attributes:
        whole: whether the batch is computed at once: what a stage keeps is not there for each part of it then.
    """

    _running: ContextVar[_Again | None] = ContextVar("the stage that is running", default=None)
    in_parts: ContextVar[bool] = ContextVar("whether the network that is running gets a batch in parts", default=False)

    def __init__(self, stage: Callable[[Tensor], Tensor]) -> None:
        self.stage = stage
        self.kept: list[Tensor] = []
        self.place = 0  # in the list, of the next result
        self.passes = 0
        self.whole = not self.in_parts.get()

    def __call__(self, value: Tensor) -> Tensor:
        self.place, before = 0, self._running.set(self)
        self.passes += 1
        try:
            return self.stage(value)
        finally:
            self._running.reset(before)

    def next(self, compute: Callable[[], Tensor]) -> Tensor:
        """The result that was kept at this place; computed and kept in the first call."""
        if self.place == len(self.kept):
            self.kept.append(compute().detach())
        self.place += 1
        return self.kept[self.place - 1].detach()  # else it would hold the graph, which holds it

    @classmethod
    def current(cls) -> _Again | None:
        """The one whose stage is running."""
        return cls._running.get()


def computed_once(compute: Callable[[], Tensor]) -> Tensor:
    """What ``compute`` gives; where a stage is run again for the gradient, what it gave there before."""
    again = _Again.current()
    return compute() if again is None else again.next(compute)


def is_computed_again() -> bool:
    """Whether the stage that is running will be run again for the gradient."""
    return _Again.current() is not None


def is_second_pass() -> bool:
    """Whether the stage that is running is being run again for the gradient."""
    again = _Again.current()
    return again is not None and again.passes > 1


def keeps_gelu_gradients() -> bool:
    """Whether it will, and may keep half as much as its hidden features to spare the time for some of that."""
    again = _Again.current()
    return again is not None and again.whole


def in_parts(network: Callable[..., Sequence[Tensor]], size: int, *batch: Tensor | None) -> tuple[Tensor, ...]:
    """The results of ``network`` for a batch of which only ``size`` examples are kept in memory for the gradient.

    Each part is computed again when its gradient is wanted. A loss that couples the examples of a batch, as Dice over
    the batch and InfoSAM's relations do, sees the results of all of them.

    Args:
        network: from tensors (b, ...) to several tensors (b, ...).
        size: how many examples make a part.
        batch: what it takes, (B, ...) each, or None.
    """
    count = next(len(each) for each in batch if each is not None)
    if count <= size:
        return tuple(network(*batch))

    def run(*part: Tensor | None) -> Sequence[Tensor]:
        before = _Again.in_parts.set(True)
        try:
            return network(*part)
        finally:
            _Again.in_parts.reset(before)

    parts = [
        checkpoint(run, *(each if each is None else each[i : i + size] for each in batch), use_reentrant=False)
        for i in range(0, count, size)
    ]
    return tuple(torch.cat(results) for results in zip(*parts, strict=True))


def is_recorded() -> bool:
    """Whether operators are being recorded, to be exported or compiled: what follows must be plain ones."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def run_as(encoder: Any, precision: str = "fp32", low_memory: bool = False) -> Any:
    """Have ``encoder`` run in this way from now on; returns it."""
    encoder.running = Running(precision, low_memory)
    return encoder


def running_of(encoder: nn.Module) -> Running:
    """How ``encoder`` is run: as set by :func:`run_as`, else plainly."""
    return getattr(encoder, "running", Running())
