"""Several processes at one training, as ``torchrun`` starts them: who writes, who waits, what they compute together.

N processes with batches of b slices train as one with batches of N · b. Two rules make it so:

- Process p draws what the one process would draw, and takes the p-th b slices of each batch (`DrawSampler`).
- A loss is that of the whole batch, on every process: its sums go through :func:`all_sum`, its features through
  :func:`gather_batch`. Their gradients are summed over the processes, so the mean over the processes of the
  gradients of the weights, which DistributedDataParallel and :func:`average` take, is that of the one process.

In a process that is alone every function here leaves things as they are.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")
# One process may slice or score volumes while the others wait. The launcher notices a process that dies by itself.
_PATIENCE = timedelta(hours=12)


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main_process() -> bool:
    """Whether this process is the one that writes files and shows how far it is."""
    return rank() == 0


def join_processes(device: torch.device | str) -> None:
    """Wait for the other processes that ``torchrun`` has started, to train with them."""
    if dist.is_initialized():
        return
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:  # otherwise each would take all of the processor
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)


def leave_processes() -> None:
    """Undo :func:`join_processes`."""
    if dist.is_initialized():
        dist.destroy_process_group()


def parallel(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network on its device, with gradients that ``backward`` averages over the processes."""
    device = torch.device(device)
    network = network.to(device)
    known = inspect.signature(DistributedDataParallel).parameters
    exchange = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
    # Off, since all buffers are constants: SAM's pixel statistics, PARSER's singular vectors.
    options: dict[str, Any] = {exchange: False, "device_ids": [device] if device.type == "cuda" else None}
    return DistributedDataParallel(network, **options)


def unwrap(network: nn.Module) -> nn.Module:
    """The network that :func:`parallel` was given, or the network itself."""
    return cast("nn.Module", network.module) if isinstance(network, DistributedDataParallel) else network


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block in the first process, then in the others, which find in the cache what it made."""
    if not is_main_process():
        dist.barrier()
    yield
    if is_main_process() and world_size() > 1:
        dist.barrier()


def any_process(asked: bool) -> bool:
    """Whether ``asked`` is true in one of the processes at least; all wait for each other here."""
    if world_size() == 1:
        return asked
    flag = torch.tensor(int(asked))
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def from_main_process(value: Item) -> Item:
    """The first process's value, in all of them."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def shard(items: Sequence[Item]) -> list[Item]:
    """This process's part of ``items``: as many as every other's, so that some are dealt twice where they do not go up.

    :func:`merge` puts what was made of the parts together again.
    """
    count, each = len(items), -(-len(items) // world_size())
    return [items[(rank() + step * world_size()) % count] for step in range(each)]


def merge(results: dict[str, Item]) -> dict[str, Item]:
    """The results of all processes by name, in the order in which :func:`shard` dealt the items."""
    if world_size() == 1:
        return results
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, list(results.items()))
    return {name: result for dealt in zip(*parts, strict=True) for name, result in dealt}


def union(results: dict[str, Item]) -> dict[str, Item]:
    """The results of all processes by name, however many each has."""
    if world_size() == 1:
        return results
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, results)
    return {name: result for part in parts for name, result in part.items()}


def seed_processes(engine: Any, seed: int) -> None:
    """Give every process of a trainer separate random numbers (for dropout); the first keeps those it has.

    They are drawn from a new seed every epoch, so that nothing of them must be saved to resume.
    """

    def reseed(engine: Any) -> None:
        torch.manual_seed(hash((seed, engine.state.epoch, rank())))

    if not is_main_process():
        from ignite.engine import Events  # only here: it is slow to import, and predicting does without

        engine.add_event_handler(Events.EPOCH_STARTED, reseed)


def all_sum(tensor: Tensor) -> Tensor:
    """The sum of the processes' tensors, of one shape, on every process; the gradient is summed likewise."""
    return cast("Tensor", _AllSum.apply(tensor)) if world_size() > 1 else tensor


def all_mean(tensor: Tensor) -> Tensor:
    """The mean of the processes' tensors, as :func:`all_sum`."""
    return all_sum(tensor) / world_size() if world_size() > 1 else tensor


def gather_batch(tensor: Tensor) -> Tensor:
    """The batches (b, ...) of all processes in one, (N · b, ...), on every process; the gradient is summed."""
    return cast("Tensor", _GatherBatch.apply(tensor)) if world_size() > 1 else tensor


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The mean of each tensor over the processes, in one exchange for each precision."""
    given = list(tensors)
    if world_size() == 1:
        return given
    means: list[Tensor] = given[:]
    for dtype in {tensor.dtype for tensor in given}:
        places = [place for place, tensor in enumerate(given) if tensor.dtype == dtype]
        flat = torch.cat([given[place].detach().flatten() for place in places])
        dist.all_reduce(flat)
        flat /= world_size()
        parts = flat.split([given[place].numel() for place in places])
        for place, part in zip(places, parts, strict=True):
            means[place] = part.view_as(given[place])
    return means


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of what is trained outside DistributedDataParallel; one without a gradient stays so."""
    if world_size() == 1:
        return
    reached = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [cast("Tensor", parameter.grad) for parameter in reached]
    for parameter, mean in zip(reached, average(gradients), strict=True):
        parameter.grad = mean


class _AllSum(torch.autograd.Function):
    """torch's own such function is deprecated. It is differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return cast("Tensor", _AllSum.apply(gradient))


class _GatherBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().contiguous()
        batches = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(batches, tensor)
        ctx.size = len(tensor)
        return torch.cat(batches)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        start = rank() * ctx.size
        return cast("Tensor", _AllSum.apply(gradient))[start : start + ctx.size]
