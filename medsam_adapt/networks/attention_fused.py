"""Attention with decomposed relative positions on a graphics card, in one kernel whose scores never leave the chip."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from medsam_adapt.networks.attention_tiles import Inputs, derivable_gradients, plain

FEW_KEYS = 1024  # with fewer, windows say, there is little to win
MOST_COLUMNS = 64  # of the grid at 1024 pixels; a row of more keys does not fit into the memory of most chips
_SMALLEST = 16  # side of a tile that the chip's matrix units take
_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 4e-2}  # of the largest value; wider numbers fill its registers
_ARCHITECTURE = (8, 0)  # Ampere: below, there is no bfloat16, and compiling did not come to an end


def fused(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """Attention by the kernels of attention_kernels.py; arguments as for ``attention_tiles.plain``, of one type.

    Scores are made again for the gradient, and sums are in single precision.
    """
    return _Fused.apply(*(each.contiguous() for each in (query, key, value, rel_h, rel_w)), scale)


def can_fuse(inputs: Inputs, backward: bool) -> bool:
    """Whether :func:`fused` suits these tensors, and gives on their device what it should.

    That is tried once for every kind of tensors. A warning says why if it does not: results are as right then, and
    come slower. Without the package triton none is given.
    """
    query, key, *_, rel_w = inputs
    device, dtype, columns = query.device, query.dtype, int(rel_w.shape[2])
    if device.type != "cuda" or dtype not in _TOLERANCE or key.shape[1] < FEW_KEYS or columns > MOST_COLUMNS:
        return False
    known = torch.version.hip is None and torch.cuda.get_device_capability(device) >= _ARCHITECTURE
    return (
        known and find_spec("triton") is not None and _is_right(device, dtype, int(query.shape[2]), columns, backward)
    )


@cache
def _is_right(device: torch.device, dtype: torch.dtype, dim: int, columns: int, backward: bool) -> bool:
    """Whether the kernels can be compiled for a device, and agree there with the plain form on random numbers."""
    try:
        worst = trial(device, dtype, dim, columns, backward)
    except Exception as error:  # whatever a compiler or driver of another version may raise
        reason = f"does not run here ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    else:
        if worst <= _TOLERANCE[dtype]:
            return True
        reason = f"is off by {worst:.1g} here"
    warnings.warn(f"the fused attention {reason}; PyTorch's own is used instead, which is slower", stacklevel=2)
    return False


def trial(device: torch.device, dtype: torch.dtype, dim: int, columns: int, backward: bool) -> float:
    """The largest difference between :func:`fused` and the plain form, relative to the largest value of each result.

    Of the output, and with ``backward`` of all five gradients; not a number where a result is none. The compiler makes
    other code for sizes that are multiples of 16: they are where ``columns`` is.
    """
    made = torch.Generator().manual_seed(0)
    rows, more = (16, 48) if columns % 16 == 0 else (5, 7)  # more queries than fill their tiles
    queries, keys = rows * columns + more, rows * columns
    shapes = [(2, queries, dim), (2, keys, dim), (2, keys, dim), (2, queries, rows), (2, queries, columns)]
    given = [torch.randn(shape, generator=made).to(device, dtype) for shape in shapes]
    along = torch.randn(shapes[0], generator=made).to(device, dtype)

    def results(attend: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        inputs = [each.to(dtype, copy=True).requires_grad_(backward) for each in given]
        output = attend(*inputs, dim**-0.5)
        return [output.detach(), *(torch.autograd.grad(output, inputs, along.to(dtype)) if backward else ())]

    # What is computed around this, by torch.utils.checkpoint say, is not to count what is kept here.
    own = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False), own:
        pairs = zip(results(fused, dtype), results(plain, torch.float64), strict=True)
        differences = [(found - right).abs().max() / right.abs().max() for found, right in pairs]
    return torch.stack(differences).max().item()  # Python's own would pass over what is not a number


class _Fused(torch.autograd.Function):
    """:func:`fused` with a gradient; what it computes in is the type of its arguments, autocast or not."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float
    ) -> Tensor:
        inputs = (query, key, value, rel_h, rel_w)  # contiguous, as the kernels want them
        output, logsumexp = torch.empty_like(query), query.new_empty(query.shape[:2], dtype=torch.float32)
        _launch("mix", inputs, (output, logsumexp), scale)
        ctx.save_for_backward(*inputs, output, logsumexp)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value, rel_h, rel_w, output, logsumexp = ctx.saved_tensors
        inputs = query, key, value, rel_h, rel_w
        if torch.is_grad_enabled():  # a second derivative is wanted: autograd follows the plain form
            result = plain(*inputs, ctx.scale)
            return *derivable_gradients(result, inputs, ctx.needs_input_grad[:5], grad), None
        grad = grad.to(output.dtype).contiguous()
        along = (grad.float() * output.float()).sum(dim=-1)
        to_query, to_key, to_value, to_h, to_w = (torch.empty_like(each) for each in inputs)
        given = (*inputs, grad, logsumexp, along)
        _launch("query_gradients", given, (to_query, to_h, to_w), ctx.scale)
        _launch("key_gradients", given, (to_key, to_value), ctx.scale)
        return to_query, to_key, to_value, to_h, to_w, None


def _launch(kernel: str, given: Any, results: tuple[Tensor, ...], scale: float) -> None:
    """Run a kernel over all heads, and its tiles of queries or rows of keys."""
    from medsam_adapt.networks import attention_kernels

    query, rel_h, rel_w = given[0], given[3], given[4]
    (heads, count, dim), rows, columns = query.shape, rel_h.shape[2], rel_w.shape[2]
    sides = sides_of(query.dtype, columns, dim)
    programs = rows if kernel == "key_gradients" else -(-count // sides["BLOCK"])
    with torch.cuda.device_of(query):
        run = getattr(attention_kernels, kernel)[(programs, heads)]
        run(*given, *results, scale, count, rows, columns, dim, **sides, **options_of(sides))


def sides_of(dtype: torch.dtype, columns: int, dim: int) -> dict[str, int]:
    """Of a tile: its queries, the columns of a row of keys, and the length of their vectors.

    Queries are as many as the memory of a chip takes along with their keys and values.
    """
    long = _power_of_two(dim)
    block = 32 if dtype.itemsize > 2 else 64 if long > 64 else 128
    return {"BLOCK": block, "COLUMNS": _power_of_two(columns), "DIM": long}


def options_of(sides: dict[str, int]) -> dict[str, Any]:
    """What the compiler is told: registers for a tile come from its warps, memory for one that is loaded ahead."""
    return {"num_warps": 8 if sides["BLOCK"] > 64 else 4, "num_stages": 2, "enable_fp_fusion": True}


def _power_of_two(size: int) -> int:
    return max(_SMALLEST, 1 << (size - 1).bit_length())
