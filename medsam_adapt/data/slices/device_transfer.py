"""Arrays to a device, and results from it without waiting for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from medsam_adapt.data.slices.geometry import as_tensor

_LATE = 2  # results that may be under way: while one is copied and another computed, the next is begun

Key = TypeVar("Key")


def on_device(view: np.ndarray, device: torch.device) -> Tensor:
    """A float32 tensor of a (possibly mirrored) view, its own memory; on a device as the view is.

    To another device than the processor values go in the order in which they lie in memory, which is how copying is
    fastest, and axes that run backwards are turned there.
    """
    if device.type == "cpu":
        return as_tensor(view.astype(np.float32, copy=False))
    backwards = tuple(axis for axis, stride in enumerate(view.strides) if stride < 0)
    forwards = np.flip(view, backwards)
    there = torch.from_numpy(forwards.astype(np.float32, copy=not forwards.flags.writeable)).to(device)
    return there.flip(backwards).contiguous()


def on_host(results: Iterable[tuple[Key, Sequence[Tensor]]]) -> Iterator[tuple[Key, list[np.ndarray]]]:
    """Keys and tensors in turn, the tensors as arrays.

    From a GPU they are copied while the next ones are computed: ``results`` is asked for two more before
    the first is given. What is computed on the processor is given at once.
    """
    under_way: deque[tuple[Key, Callable[[], list[np.ndarray]]]] = deque()
    for key, tensors in results:
        under_way.append((key, _begun(tensors)))
        if len(under_way) > (_LATE if tensors[0].device.type == "cuda" else 0):
            first, arrays = under_way.popleft()
            yield first, arrays()
    for key, arrays in under_way:
        yield key, arrays()


def _begun(tensors: Sequence[Tensor]) -> Callable[[], list[np.ndarray]]:
    """Begin to copy tensors to the host; what is returned waits for them."""
    if tensors[0].device.type != "cuda":
        return lambda: [tensor.cpu().numpy() for tensor in tensors]
    copies = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tensors[0].device))

    def arrays() -> list[np.ndarray]:
        done.synchronize()
        return [copy.numpy() for copy in copies]

    return arrays
