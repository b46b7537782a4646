"""Attention with decomposed relative positions on a GPU, in one kernel whose scores never leave the chip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medsam_adapt.kernels.attention_tiles import derivable_gradients, flattened, plain
from medsam_adapt.kernels.attention_windows import by_windows, is_padded
from medsam_adapt.kernels.self_test import TOLERANCE, agrees, runs_kernels, worst_difference

MOST_COLUMNS = 64  # of the grid at 1024 pixels; a row of more keys does not fit into the memory of most chips
_MOST_DIM = 128  # vectors of a head, likewise
_SMALLEST = 16  # side of a tile that the chip's matrix units take
_ALIGNMENT = 8  # products want rows of a multiple of this


def fused(
    qkv: Tensor, fill: Tensor | None, table_h: Tensor, table_w: Tensor, heads: int, window: int, scale: float
) -> Tensor:
    """What ``attention_windows.by_windows`` gives with the same arguments, by the kernels of attention_kernels.py.

    Scores are made again for the gradient, and sums are in single precision.
    """
    spare = -(len(table_h) + len(table_w)) % _ALIGNMENT
    tables = torch.cat([table_h, table_w, table_h.new_zeros(spare, table_h.shape[1])]).to(qkv.dtype)
    rows = len(table_h) // 2 + 1
    result: Tensor = _Fused.apply(qkv.contiguous(), fill, tables, rows, len(table_w) // 2 + 1, heads, window, scale)
    return result


def can_fuse(qkv: Tensor, fill: Tensor | None, table_h: Tensor, table_w: Tensor, heads: int, window: int) -> bool:
    """Whether :func:`fused` suits these arguments, and gives on their device what it should.

    That is tried once for every kind of tensors. A warning states why if it does not: results are as right then, and
    come slower. Without the package triton none is given.
    """
    device, dtype = qkv.device, qkv.dtype
    columns, dim = len(table_w) // 2 + 1, table_w.shape[1]
    if device.type != "cuda" or dtype not in TOLERANCE or columns > MOST_COLUMNS or dim > _MOST_DIM:
        return False
    backward = torch.is_grad_enabled() and any(
        each is not None and each.requires_grad for each in (qkv, fill, table_h, table_w)
    )
    padded = is_padded((int(qkv.shape[1]), int(qkv.shape[2])), window)
    return runs_kernels(device) and _is_right(device, dtype, dim, columns, window, padded, backward)


@cache
def _is_right(
    device: torch.device, dtype: torch.dtype, dim: int, columns: int, window: int, padded: bool, backward: bool
) -> bool:
    given = device, dtype, dim, columns, window, padded, backward
    return agrees("the fused attention", lambda: trial(*given), TOLERANCE[dtype])


def trial(
    device: torch.device, dtype: torch.dtype, dim: int, columns: int, window: int, padded: bool, backward: bool
) -> float:
    """The largest difference between :func:`fused` and the plain form, relative to the largest value of each result.

    Of the output, and with ``backward`` of all four gradients; not a number where a result is none. The compiler makes
    other code for sizes that are multiples of 16: they are where ``columns`` is.
    """
    made = torch.Generator().manual_seed(0)
    rows = window or (16 if columns % 16 == 0 else 5)
    grid = (window + 3, window + 1) if padded else (2 * window, window) if window else (rows, columns)
    heads, channels = 2, 2 * dim
    shapes = [(1, *grid, 3 * channels), (3 * channels,), (2 * rows - 1, dim), (2 * columns - 1, dim)]
    large = 1.0, 1.0, dim**-0.5, dim**-0.5  # so that scores are not much larger than those of a trained network
    given = [(a * torch.randn(b, generator=made)).to(device, dtype) for a, b in zip(large, shapes, strict=True)]
    along = torch.randn((1, *grid, channels), generator=made).to(device, dtype)

    def results(attend: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        inputs = [each.to(dtype, copy=True).requires_grad_(backward) for each in given]
        used = inputs if padded else [inputs[0], *inputs[2:]]
        output = attend(inputs[0], inputs[1] if padded else None, *inputs[2:], heads, window, dim**-0.5)
        return [output.detach(), *(torch.autograd.grad(output, used, along.to(dtype)) if backward else ())]

    return worst_difference(device, lambda: results(fused, dtype), lambda: results(_plainly, torch.float64))


def _plainly(
    qkv: Tensor, fill: Tensor | None, table_h: Tensor, table_w: Tensor, heads: int, window: int, scale: float
) -> Tensor:
    """:func:`fused` with all scores in memory."""

    def attend(tensors: Sequence[Tensor], table_h: Tensor, table_w: Tensor, scale: float) -> Tensor:
        return plain(*flattened(tensors, table_h, table_w), scale).view(-1, *tensors[0].shape[-3:])

    return by_windows(qkv, fill, table_h, table_w, heads, window, scale, attend)


class _Shape(NamedTuple):
    """How a grid of tokens is divided, as the kernels need it."""

    height: int
    width: int
    rows: int
    down: int
    across: int
    heads: int
    images: int
    span: int

    @property
    def windows(self) -> int:
        """Of all images."""
        return self.images * self.down * self.across


class _Fused(torch.autograd.Function):
    """:func:`fused` with a gradient; what it computes in is the type of its arguments, autocast or not."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        fill: Tensor | None,
        tables: Tensor,
        rows: int,
        columns: int,
        heads: int,
        window: int,
        scale: float,
    ) -> Tensor:
        images, height, width = (int(side) for side in qkv.shape[:3])
        down, across = (-(-height // window), -(-width // window)) if window else (1, 1)
        shape = _Shape(height, width, rows, down, across, heads, images, len(tables))
        output = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
        logsumexp = qkv.new_empty(heads, images * height * width, dtype=torch.float32)
        with torch.autocast(qkv.device.type, enabled=False):
            relative = _products(qkv, tables, heads)
        sides = sides_of(qkv.dtype, rows, columns, tables.shape[1]) | {"PADDED": fill is not None}
        _launch("mix", (qkv, fill, relative, output, logsumexp), shape, columns, tables.shape[1], scale, sides)
        ctx.save_for_backward(qkv, fill, tables, output, logsumexp)
        ctx.given = shape, columns, window, scale
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        qkv, fill, tables, output, logsumexp = ctx.saved_tensors
        shape, columns, window, scale = ctx.given
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # a second derivative is wanted: autograd follows the plain form
            ends = 2 * shape.rows - 1, 2 * (shape.rows + columns) - 2
            result = _plainly(qkv, fill, tables[: ends[0]], tables[ends[0] : ends[1]], shape.heads, window, scale)
            inputs = [each for each in (qkv, fill, tables) if each is not None]
            asked = [need for need, each in zip(wanted, (qkv, fill, tables), strict=True) if each is not None]
            gradients = iter(derivable_gradients(result, inputs, asked, grad))
            return *(None if each is None else next(gradients) for each in (qkv, fill, tables)), *[None] * 5
        with torch.autocast(qkv.device.type, enabled=False):
            found = _gradients(
                (qkv, fill, tables), output, logsumexp, grad.to(qkv.dtype).contiguous(), shape, columns, scale, wanted
            )
        return *found, *[None] * 5


def _gradients(
    inputs: tuple[Tensor, Tensor | None, Tensor],
    output: Tensor,
    logsumexp: Tensor,
    grad: Tensor,
    shape: _Shape,
    columns: int,
    scale: float,
    wanted: tuple[bool, ...],
) -> list[Tensor | None]:
    """Of queries, keys and values, of what fills windows up, and of the tables, where they are ``wanted``."""
    qkv, fill, tables = inputs
    relative, dim = _products(qkv, tables, shape.heads), tables.shape[1]
    to_qkv, to_relative, along = torch.empty_like(qkv), torch.zeros_like(relative), torch.empty_like(logsumexp)
    sides: dict[str, Any] = sides_of(qkv.dtype, shape.rows, columns, dim) | {"PADDED": fill is not None}
    several = sides["KEYS"] > sides["COLUMNS"]  # rows in a tile of keys
    biases = qkv.new_empty(*logsumexp.shape, 2 * sides["HALF"] if several else sides["COLUMNS"])
    beside = logsumexp, along, biases
    _launch(
        "query_gradients",
        (qkv, fill, relative, output, grad, *beside, to_qkv, to_relative),
        shape,
        columns,
        dim,
        scale,
        sides,
    )
    sides["FILLED"] = fill is not None and wanted[1]
    tiles = -(-shape.rows * sides["COLUMNS"] // sides["KEYS"])
    sums = qkv.new_empty(shape.windows * tiles, shape.heads, 2, dim, dtype=torch.float32) if sides["FILLED"] else None
    _launch("key_gradients", (qkv, fill, relative, grad, *beside, to_qkv, sums), shape, columns, dim, scale, sides)
    _queries(to_qkv, shape.heads).baddbmm_(to_relative, tables.expand(shape.heads, -1, -1))
    to_fill = to_tables = None
    if sums is not None and fill is not None:
        total = sums.sum(dim=0).transpose(0, 1)
        to_fill = torch.cat([torch.zeros_like(total[:1]), total]).flatten().to(fill.dtype)
    if wanted[2]:
        by_head = torch.bmm(to_relative.transpose(1, 2), _queries(qkv, shape.heads))
        to_tables = by_head.sum(dim=0, dtype=torch.float32).to(tables.dtype)
    return [to_qkv if wanted[0] else None, to_fill, to_tables]


def _queries(qkv: Tensor, heads: int) -> Tensor:
    """A view (heads, B H W, d) of the queries in (B, H, W, 3 C)."""
    return qkv.view(-1, 3, heads, qkv.shape[3] // (3 * heads))[:, 0].transpose(0, 1)


def _products(qkv: Tensor, tables: Tensor, heads: int) -> Tensor:
    """(heads, B H W, span) of the queries with all entries of the tables (span, d)."""
    return torch.bmm(_queries(qkv, heads), tables.T.expand(heads, -1, -1))


def _launch(
    kernel: str, tensors: Any, shape: _Shape, columns: int, dim: int, scale: float, sides: dict[str, Any]
) -> None:
    """Run a kernel over all windows, heads, and tiles of queries or keys."""
    from medsam_adapt.kernels import attention_triton as attention_kernels

    size = sides["KEYS" if kernel == "key_gradients" else "BLOCK"]
    programs = -(-shape.rows * sides["COLUMNS"] // size) * shape.heads * shape.windows
    present = [tensors[0] if each is None else each for each in tensors]  # where there is none, none is read
    with torch.cuda.device_of(tensors[0]):
        run = getattr(attention_kernels, kernel)[(programs,)]
        run(*present, scale, *shape, columns, dim, **sides, **options_of(sides, kernel))


def sides_of(dtype: torch.dtype, rows: int, columns: int, dim: int) -> dict[str, int]:
    """Of a tile: its queries, its keys, the length of their rows, and that of their vectors.

    Queries and keys are as many as was fastest on an H200.
    """
    row, size = _power_of_two(columns), 32 if dtype.itemsize > 2 else 64
    half = max(row, _power_of_two(rows))
    return {"BLOCK": size, "KEYS": max(row, size), "COLUMNS": row, "HALF": half, "DIM": _power_of_two(dim)}


def options_of(sides: dict[str, Any], kernel: str) -> dict[str, Any]:
    """Compiler options: how many tiles are loaded ahead, and the maximum number of registers.

    As was fastest on an H200. Windows are so small that many programs side by side are better than loading ahead.
    """
    options: dict[str, Any] = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
    if sides["PADDED"]:
        options["num_stages"] = 1
    elif kernel == "key_gradients" or (sides["DIM"] > 64 and kernel != "mix"):
        options["num_stages"] = 2
    if sides["DIM"] <= 64 and (sides["PADDED"] or kernel == "key_gradients"):
        options["maxnreg"] = 128 if kernel == "mix" else 168
    return options


def _power_of_two(size: int) -> int:
    return max(_SMALLEST, 1 << (size - 1).bit_length())
