"""Attention with decomposed relative positions for a GPU, in Triton: three kernels.

They read queries, keys and values where the layer before leaves them, and write where the layer behind reads: what
lies in a window, and what it is filled up with, is a matter of addresses. Scores are never written down; running maxima
and sums are those of FlashAttention (arXiv 2205.14135). The gradient takes two passes, one along the keys of each query
and one along the queries of each key, so that no two programs add to one number.

A grid of ``height`` times ``width`` tokens is divided into ``down`` times ``across`` windows of ``rows`` times
``columns`` (one of them, without windows). Places in a window are counted row by row, each row made ``COLUMNS`` long;
a tile holds ``BLOCK`` places of queries or ``KEYS`` of keys. All tensors are contiguous: ``qkv`` and its gradient
(B, height, width, 3, heads, d), ``fill`` (3, heads, d), ``output`` and its gradient (B, height, width, heads, d);
``relative`` and its gradient (heads, B height width, span), the products of a query with the tables of rows (2 rows - 1
of them), then of columns; ``logsumexp``, to base 2, and ``along`` (heads, B height width). Importing this needs the
package triton.
"""

# mypy: ignore-errors
# (what is inside is Triton's language, whose types are not Python's)

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _program(tiles, heads):
    """Tile, head and window, those of one window and head side by side: they read the same keys."""
    program = tl.program_id(0)
    return program % tiles, (program // tiles) % heads, program // (tiles * heads)


@triton.jit
def _tile(tile, window, height, width, rows, columns, down, across, SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    """Of the places of a tile: row, column, token of its image, whether they are in the window, and in the grid too."""
    place = tile * SIZE + tl.arange(0, SIZE)
    row, column = place // COLUMNS, place % COLUMNS
    number = window % (down * across)
    y, x = (number // across) * rows + row, (number % across) * columns + column
    inside = (row < rows) & (column < columns)
    return row, column, y * width + x, inside, inside & (y < height) & (x < width)


@triton.jit
def _address(token, stride, DIM: tl.constexpr):
    return token[:, None] * stride + tl.arange(0, DIM)[None, :]


@triton.jit
def _there(known, dim, DIM: tl.constexpr):
    return known[:, None] & (tl.arange(0, DIM) < dim)[None, :]


@triton.jit
def _filled(tensor, fill, inside, known, dim, DIM: tl.constexpr):
    """A tile of keys or values with ``fill`` where a window reaches beyond the grid."""
    channel = tl.arange(0, DIM)
    value = tl.load(fill + channel, mask=channel < dim, other=0.0)
    return tl.where((inside & (known == 0))[:, None], value[None, :], tensor)


@triton.jit
def _column_bias(relative, token, column, known, span, rows, columns, COLUMNS: tl.constexpr):
    """Biases of a row's columns to base 2 (queries, keys), the same in every row; -inf where there is no column."""
    other = tl.arange(0, COLUMNS)
    place = token[:, None] * span + (2 * rows - 1) + (column[:, None] - other[None, :] + columns - 1)
    bias = tl.load(relative + place, mask=known[:, None] & (other < columns)[None, :], other=0.0)
    return tl.where((other < columns)[None, :], bias.to(tl.float32) * LOG2_E, float("-inf"))


@triton.jit
def _row_bias(relative, token, row, known, span, rows, other):
    """Biases of one row of keys to base 2 (queries)."""
    bias = tl.load(relative + token * span + (row - other + rows - 1), mask=known, other=0.0)
    return bias.to(tl.float32) * LOG2_E


@triton.jit
def _biases_at(token, row, column, known, span, rows, columns, HALF: tl.constexpr):
    """Where the biases of each query for all rows, then for all columns lie (queries, 2 HALF), and whether they are."""
    number = tl.arange(0, 2 * HALF)
    of_rows, other = number < HALF, number % HALF
    place = tl.where(of_rows[None, :], row[:, None] + rows - 1, column[:, None] + 2 * rows + columns - 2)
    there = tl.where(of_rows, other < rows, other < columns)
    return token[:, None] * span + place - other[None, :], known[:, None] & there[None, :]


@triton.jit
def _marks(row, column, HALF: tl.constexpr, like):
    """The row and the column of each key among all rows and columns (2 HALF, keys): 1 there, else 0."""
    number = tl.arange(0, 2 * HALF)[:, None]
    return ((number == row[None, :]) | (number == column[None, :] + HALF)).to(like.dtype)


@triton.jit
def _scores(queries, keys, biases, marks, inside, scale):
    """Scores of several rows of keys to base 2; -inf for those that are not in the window."""
    sums = tl.dot(biases, marks, input_precision="ieee") * LOG2_E
    products = tl.dot(queries, tl.trans(keys), input_precision="ieee") * (scale * LOG2_E)
    return tl.where(inside[None, :], products + sums, float("-inf"))


@triton.jit
def _start(image, head, tokens, stride, dim):
    """Of a head's vectors in an image, in a tensor whose tokens have ``stride`` channels."""
    return image.to(tl.int64) * tokens * stride + head * dim


@triton.jit
def mix(
    qkv, fill, relative, output, logsumexp, scale, height, width, rows, down, across, heads, images, span,
    columns: tl.constexpr, dim: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr, COLUMNS: tl.constexpr,
    HALF: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """The output and the logarithm of each query's sum, of one tile of queries of one head in one window."""
    tiles = tl.cdiv(rows * COLUMNS, BLOCK)
    tile, head, window = _program(tiles, heads)
    image, tokens, channels = window // (down * across), height * width, heads * dim
    qkv += _start(image, head, tokens, 3 * channels, dim)
    own = (head.to(tl.int64) * images + image) * tokens
    relative += own * span
    row, column, token, _inside, known = _tile(tile, window, height, width, rows, columns, down, across, BLOCK, COLUMNS)
    queries = tl.load(qkv + _address(token, 3 * channels, DIM), mask=_there(known, dim, DIM), other=0.0)
    if KEYS == COLUMNS:
        biases = _column_bias(relative, token, column, known, span, rows, columns, COLUMNS)
    else:
        at_biases, of_biases = _biases_at(token, row, column, known, span, rows, columns, HALF)
        biases = tl.load(relative + at_biases, mask=of_biases, other=0.0)
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    mixed = tl.zeros([BLOCK, DIM], tl.float32)
    for at in range(tl.cdiv(rows * COLUMNS, KEYS)):
        key_row, key_column, key, inside, real = _tile(
            at, window, height, width, rows, columns, down, across, KEYS, COLUMNS
        )
        place, there = _address(key, 3 * channels, DIM), _there(real, dim, DIM)
        keys = tl.load(qkv + channels + place, mask=there, other=0.0)
        values = tl.load(qkv + 2 * channels + place, mask=there, other=0.0)
        if PADDED:
            keys = _filled(keys, fill + (heads + head) * dim, inside, real, dim, DIM)
            values = _filled(values, fill + (2 * heads + head) * dim, inside, real, dim, DIM)
        if KEYS == COLUMNS:  # one bias for each query: it need not be added to all of its scores
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * (scale * LOG2_E) + biases
            bias = _row_bias(relative, token, row, known, span, rows, at)
            larger = tl.maximum(largest, tl.max(scores, 1) + bias)
            weights = tl.exp2(scores + (bias - larger)[:, None])
        else:
            scores = _scores(queries, keys, biases, _marks(key_row, key_column, HALF, queries), inside, scale)
            larger = tl.maximum(largest, tl.max(scores, 1))
            weights = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        largest = larger
    output += _start(image, head, tokens, channels, dim)
    result = (mixed / total[:, None]).to(output.dtype.element_ty)
    tl.store(output + _address(token, channels, DIM), result, mask=_there(known, dim, DIM))
    tl.store(logsumexp + own + token, largest + tl.log2(total), mask=known)


@triton.jit
def query_gradients(
    qkv, fill, relative, output, grad, logsumexp, along, left, to_qkv, to_relative, scale, height, width, rows, down,
    across, heads, images, span, columns: tl.constexpr, dim: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr,
    COLUMNS: tl.constexpr, HALF: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile of queries and of their products with the tables.

    For :func:`key_gradients` it leaves ``along`` (heads, B height width), the sums of output times its gradient, and
    in ``left`` (heads, B height width, COLUMNS or 2 HALF) the biases of columns, or of rows and columns.
    """
    tiles = tl.cdiv(rows * COLUMNS, BLOCK)
    tile, head, window = _program(tiles, heads)
    image, tokens, channels = window // (down * across), height * width, heads * dim
    start, own = _start(image, head, tokens, 3 * channels, dim), (head.to(tl.int64) * images + image) * tokens
    qkv += start
    relative += own * span
    to_relative += own * span
    row, column, token, _inside, known = _tile(tile, window, height, width, rows, columns, down, across, BLOCK, COLUMNS)
    query_place, query_there = _address(token, 3 * channels, DIM), _there(known, dim, DIM)
    queries = tl.load(qkv + query_place, mask=query_there, other=0.0)
    beside = _start(image, head, tokens, channels, dim) + _address(token, channels, DIM)
    grads = tl.load(grad + beside, mask=query_there, other=0.0)
    results = tl.load(output + beside, mask=query_there, other=0.0)
    alongs = tl.sum(grads.to(tl.float32) * results.to(tl.float32), 1)
    tl.store(along + own + token, alongs, mask=known)
    if KEYS == COLUMNS:
        number = tl.arange(0, COLUMNS)
        at_biases = token[:, None] * span + (2 * rows - 1) + (column[:, None] - number[None, :] + columns - 1)
        of_biases = known[:, None] & (number < columns)[None, :]
        biases = _column_bias(relative, token, column, known, span, rows, columns, COLUMNS)
        left += own * COLUMNS + token[:, None] * COLUMNS + number[None, :]
        tl.store(left, (biases / LOG2_E).to(left.dtype.element_ty), mask=of_biases)  # as they were
        bias_grads = tl.zeros([BLOCK, COLUMNS], tl.float32)
    else:
        at_biases, of_biases = _biases_at(token, row, column, known, span, rows, columns, HALF)
        biases = tl.load(relative + at_biases, mask=of_biases, other=0.0)
        left += own * 2 * HALF + token[:, None] * 2 * HALF + tl.arange(0, 2 * HALF)[None, :]
        tl.store(left, biases, mask=known[:, None])
        bias_grads = tl.zeros([BLOCK, 2 * HALF], tl.float32)
    summed = tl.load(logsumexp + own + token, mask=known, other=0.0)
    query_grads = tl.zeros([BLOCK, DIM], tl.float32)
    for at in range(tl.cdiv(rows * COLUMNS, KEYS)):
        key_row, key_column, key, inside, real = _tile(
            at, window, height, width, rows, columns, down, across, KEYS, COLUMNS
        )
        place, there = _address(key, 3 * channels, DIM), _there(real, dim, DIM)
        keys = tl.load(qkv + channels + place, mask=there, other=0.0)
        values = tl.load(qkv + 2 * channels + place, mask=there, other=0.0)
        if PADDED:
            keys = _filled(keys, fill + (heads + head) * dim, inside, real, dim, DIM)
            values = _filled(values, fill + (2 * heads + head) * dim, inside, real, dim, DIM)
        to_weights = tl.dot(grads, tl.trans(values), input_precision="ieee") - alongs[:, None]
        if KEYS == COLUMNS:
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * (scale * LOG2_E) + biases
            bias = _row_bias(relative, token, row, known, span, rows, at)
            score_grads = tl.exp2(scores + (bias - summed)[:, None]) * to_weights
            bias_grads += score_grads
            row_place = token * span + (row - at + rows - 1)
            tl.store(to_relative + row_place, tl.sum(score_grads, 1).to(to_relative.dtype.element_ty), mask=known)
        else:
            marks = _marks(key_row, key_column, HALF, queries)
            score_grads = tl.exp2(_scores(queries, keys, biases, marks, inside, scale) - summed[:, None]) * to_weights
            bias_grads += tl.dot(score_grads.to(marks.dtype), tl.trans(marks), input_precision="ieee")
        query_grads += tl.dot(score_grads.to(keys.dtype), keys, input_precision="ieee")
    tl.store(to_qkv + start + query_place, (query_grads * scale).to(to_qkv.dtype.element_ty), mask=query_there)
    tl.store(to_relative + at_biases, bias_grads.to(to_relative.dtype.element_ty), mask=of_biases)


@triton.jit
def key_gradients(
    qkv, fill, relative, grad, logsumexp, along, left, to_qkv, to_fill, scale, height, width, rows, down, across, heads,
    images, span, columns: tl.constexpr, dim: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr,
    COLUMNS: tl.constexpr, HALF: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr, FILLED: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile of keys and values, over all queries of their window, a tile at a time.

    With ``FILLED`` also those of what a window is filled up with, into ``to_fill`` (windows, tiles, heads, 2, d).
    """
    tiles = tl.cdiv(rows * COLUMNS, KEYS)
    tile, head, window = _program(tiles, heads)
    image, tokens, channels = window // (down * across), height * width, heads * dim
    start, own = _start(image, head, tokens, 3 * channels, dim), (head.to(tl.int64) * images + image) * tokens
    qkv += start
    grad += _start(image, head, tokens, channels, dim)
    relative += own * span
    key_row, key_column, key, inside, real = _tile(
        tile, window, height, width, rows, columns, down, across, KEYS, COLUMNS
    )
    place, there = _address(key, 3 * channels, DIM), _there(real, dim, DIM)
    keys = tl.load(qkv + channels + place, mask=there, other=0.0)
    values = tl.load(qkv + 2 * channels + place, mask=there, other=0.0)
    if PADDED:
        keys = _filled(keys, fill + (heads + head) * dim, inside, real, dim, DIM)
        values = _filled(values, fill + (2 * heads + head) * dim, inside, real, dim, DIM)
    key_grads = tl.zeros([KEYS, DIM], tl.float32)
    value_slopes = tl.zeros([KEYS, DIM], tl.float32)
    marks = _marks(key_row, key_column, HALF, keys)
    for at in range(tl.cdiv(rows * COLUMNS, BLOCK)):
        row, _column, token, _inside, known = _tile(
            at, window, height, width, rows, columns, down, across, BLOCK, COLUMNS
        )
        query_there = _there(known, dim, DIM)
        queries = tl.load(qkv + _address(token, 3 * channels, DIM), mask=query_there, other=0.0)
        grads = tl.load(grad + _address(token, channels, DIM), mask=query_there, other=0.0)  # 0: it adds nothing
        summed = tl.load(logsumexp + own + token, mask=known, other=0.0)
        alongs = tl.load(along + own + token, mask=known, other=0.0)
        if KEYS == COLUMNS:
            number = tl.arange(0, COLUMNS)
            place_left = own * COLUMNS + token[:, None] * COLUMNS + number[None, :]
            of_biases = known[:, None] & (number < columns)[None, :]
            biases = tl.load(left + place_left, mask=of_biases, other=0.0).to(tl.float32) * LOG2_E
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * (scale * LOG2_E) + biases
            bias = _row_bias(relative, token, row, known, span, rows, tile)
            weights = tl.exp2(scores + (bias - summed)[:, None])
        else:
            place_left = own * 2 * HALF + token[:, None] * 2 * HALF + tl.arange(0, 2 * HALF)[None, :]
            biases = tl.load(left + place_left, mask=known[:, None], other=0.0)
            weights = tl.exp2(_scores(queries, keys, biases, marks, inside, scale) - summed[:, None])
        score_grads = weights * (tl.dot(grads, tl.trans(values), input_precision="ieee") - alongs[:, None])
        value_slopes += tl.dot(tl.trans(weights.to(grads.dtype)), grads, input_precision="ieee")
        key_grads += tl.dot(tl.trans(score_grads.to(queries.dtype)), queries, input_precision="ieee")
    key_grads *= scale
    to_qkv += start + place
    tl.store(to_qkv + channels, key_grads.to(to_qkv.dtype.element_ty), mask=there)
    tl.store(to_qkv + 2 * channels, value_slopes.to(to_qkv.dtype.element_ty), mask=there)
    if FILLED:
        beyond = (inside & (real == 0))[:, None]
        channel = tl.arange(0, DIM)
        to_fill += ((window.to(tl.int64) * tiles + tile) * heads + head) * 2 * dim + channel
        tl.store(to_fill, tl.sum(tl.where(beyond, key_grads, 0.0), 0), mask=channel < dim)
        tl.store(to_fill + dim, tl.sum(tl.where(beyond, value_slopes, 0.0), 0), mask=channel < dim)
