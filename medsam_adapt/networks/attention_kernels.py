"""Attention with decomposed relative positions for a graphics card, in Triton: three kernels.

A tile of keys is one row of the grid of tokens. In it a query's rel_h is a single number, and its rel_w a vector that
is the same in every tile; scores are never written down. Running maxima and sums are those of FlashAttention (arXiv
2205.14135). The gradient takes two passes, one along the keys of each query and one along the queries of each key, so
that no two programs add to one number.

All tensors are contiguous: query, output and gradients of both (N, Q, d); key and value (N, H W, d); rel_h (N, Q, H);
rel_w (N, Q, W); ``logsumexp``, to base 2, and ``along`` (N, Q). Importing this needs the package triton.
"""

# mypy: ignore-errors
# (what is inside is Triton's language, whose types are not Python's)

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _tile(start, first, height, width, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Offsets from ``start`` and mask of the rows from ``first`` on, of a (height, width) matrix."""
    down = first + tl.arange(0, HEIGHT)
    across = tl.arange(0, WIDTH)
    inside = (down < height)[:, None] & (across < width)[None, :]
    return start + down[:, None] * width + across[None, :], inside


@triton.jit
def _scores(queries, keys, bias_w, bias_h, scale):
    """Scores of a tile to base 2 (queries, keys): single precision is not rounded to TF32."""
    products = tl.dot(queries, tl.trans(keys), input_precision="ieee")
    return products * (scale * LOG2_E) + bias_w + bias_h[:, None]


@triton.jit
def _bias_w(rel_w, start, first, count, columns, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """rel_w of a tile of queries to base 2; where there is no such column, what leaves no probability."""
    place, inside = _tile(start * columns, first, count, columns, BLOCK, COLUMNS)
    bias = tl.load(rel_w + place, mask=inside, other=0.0).to(tl.float32) * LOG2_E
    return tl.where(tl.arange(0, COLUMNS)[None, :] < columns, bias, float("-inf"))


@triton.jit
def mix(
    query, key, value, rel_h, rel_w, output, logsumexp, scale, count, rows, columns, dim,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """The output and the logarithm of each query's sum, of ``BLOCK`` queries of one head of one image."""
    first, head = tl.program_id(0) * BLOCK, tl.program_id(1).to(tl.int64)
    start = head * count
    place, inside = _tile(start * dim, first, count, dim, BLOCK, DIM)
    queries = tl.load(query + place, mask=inside, other=0.0)
    bias_w = _bias_w(rel_w, start, first, count, columns, BLOCK, COLUMNS)
    own = first + tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    mixed = tl.zeros([BLOCK, DIM], tl.float32)
    for row in range(rows):
        there, valid = _tile((head * rows + row) * columns * dim, 0, columns, dim, COLUMNS, DIM)
        bias_h = tl.load(rel_h + (start + own) * rows + row, mask=own < count, other=0.0).to(tl.float32) * LOG2_E
        scores = _scores(queries, tl.load(key + there, mask=valid, other=0.0), bias_w, bias_h, scale)
        larger = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(weights, 1)
        values = tl.load(value + there, mask=valid, other=0.0)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        largest = larger
    tl.store(output + place, (mixed / total[:, None]).to(output.dtype.element_ty), mask=inside)
    tl.store(logsumexp + start + own, largest + tl.log2(total), mask=own < count)


@triton.jit
def _slopes(queries, grads, keys, values, bias_w, bias_h, summed, along, scale):
    """Probabilities of a tile, and the gradient of its scores."""
    weights = tl.exp2(_scores(queries, keys, bias_w, bias_h, scale) - summed[:, None])
    to_weights = tl.dot(grads, tl.trans(values), input_precision="ieee")
    return weights, weights * (to_weights - along[:, None])


@triton.jit
def query_gradients(
    query, key, value, rel_h, rel_w, grad, logsumexp, along, to_query, to_h, to_w, scale, count, rows, columns, dim,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Gradients of ``BLOCK`` queries and of their biases; ``along`` is the sum of output times its gradient."""
    first, head = tl.program_id(0) * BLOCK, tl.program_id(1).to(tl.int64)
    start = head * count
    place, inside = _tile(start * dim, first, count, dim, BLOCK, DIM)
    queries = tl.load(query + place, mask=inside, other=0.0)
    grads = tl.load(grad + place, mask=inside, other=0.0)
    bias_w = _bias_w(rel_w, start, first, count, columns, BLOCK, COLUMNS)
    own = first + tl.arange(0, BLOCK)
    summed = tl.load(logsumexp + start + own, mask=own < count, other=0.0)
    alongs = tl.load(along + start + own, mask=own < count, other=0.0)
    query_slopes = tl.zeros([BLOCK, DIM], tl.float32)
    w_slopes = tl.zeros([BLOCK, COLUMNS], tl.float32)
    for row in range(rows):
        there, valid = _tile((head * rows + row) * columns * dim, 0, columns, dim, COLUMNS, DIM)
        keys = tl.load(key + there, mask=valid, other=0.0)
        values = tl.load(value + there, mask=valid, other=0.0)
        bias_h = tl.load(rel_h + (start + own) * rows + row, mask=own < count, other=0.0).to(tl.float32) * LOG2_E
        _, slopes = _slopes(queries, grads, keys, values, bias_w, bias_h, summed, alongs, scale)
        query_slopes += tl.dot(slopes.to(keys.dtype), keys, input_precision="ieee")
        w_slopes += slopes
        h_slopes = tl.sum(slopes, 1).to(to_h.dtype.element_ty)
        tl.store(to_h + (start + own) * rows + row, h_slopes, mask=own < count)
    tl.store(to_query + place, (query_slopes * scale).to(to_query.dtype.element_ty), mask=inside)
    at, known = _tile(start * columns, first, count, columns, BLOCK, COLUMNS)
    tl.store(to_w + at, w_slopes.to(to_w.dtype.element_ty), mask=known)


@triton.jit
def key_gradients(
    query, key, value, rel_h, rel_w, grad, logsumexp, along, to_key, to_value, scale, count, rows, columns, dim,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Gradients of the keys and values of one row of the grid, over all queries, ``BLOCK`` at a time."""
    row, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start = head * count
    there, valid = _tile((head * rows + row) * columns * dim, 0, columns, dim, COLUMNS, DIM)
    keys = tl.load(key + there, mask=valid, other=0.0)
    values = tl.load(value + there, mask=valid, other=0.0)
    key_slopes = tl.zeros([COLUMNS, DIM], tl.float32)
    value_slopes = tl.zeros([COLUMNS, DIM], tl.float32)
    for first in range(0, count, BLOCK):
        place, inside = _tile(start * dim, first, count, dim, BLOCK, DIM)
        queries = tl.load(query + place, mask=inside, other=0.0)
        grads = tl.load(grad + place, mask=inside, other=0.0)  # 0 where there is no query: it adds nothing
        own = first + tl.arange(0, BLOCK)
        bias_w = _bias_w(rel_w, start, first, count, columns, BLOCK, COLUMNS)
        bias_h = tl.load(rel_h + (start + own) * rows + row, mask=own < count, other=0.0).to(tl.float32) * LOG2_E
        summed = tl.load(logsumexp + start + own, mask=own < count, other=0.0)
        alongs = tl.load(along + start + own, mask=own < count, other=0.0)
        weights, slopes = _slopes(queries, grads, keys, values, bias_w, bias_h, summed, alongs, scale)
        value_slopes += tl.dot(tl.trans(weights.to(grads.dtype)), grads, input_precision="ieee")
        key_slopes += tl.dot(tl.trans(slopes.to(queries.dtype)), queries, input_precision="ieee")
    tl.store(to_key + there, (key_slopes * scale).to(to_key.dtype.element_ty), mask=valid)
    tl.store(to_value + there, value_slopes.to(to_value.dtype.element_ty), mask=valid)
