"""Layer normalisation of tokens for a graphics card, in Triton: a wide number in, one of half the width out.

Tokens are (M, C), contiguous. Importing this needs the package triton.
"""

# mypy: ignore-errors
# (what is inside is Triton's language, whose types are not Python's)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _standard(tokens, place, there, channels, epsilon):
    """A few tokens with mean 0 and variance 1, and what they were divided by, inverted."""
    given = tl.load(tokens + place, mask=there, other=0.0).to(tl.float32)
    centred = tl.where(there, given - (tl.sum(given, 1) / channels)[:, None], 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred, 1) / channels + epsilon)
    return centred * inverse[:, None], inverse


@triton.jit
def _place(count, channels: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.arange(0, CHANNELS)
    known = channel < channels
    return token[:, None] * channels + channel[None, :], (token < count)[:, None] & known[None, :], channel, known


@triton.jit
def normalise(
    tokens, weight, bias, output, epsilon, count, channels: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr
):
    """(x - mean) / deviation * weight + bias of ``TOKENS`` tokens."""
    place, there, channel, known = _place(count, channels, TOKENS, CHANNELS)
    standard, _ = _standard(tokens, place, there, channels, epsilon)
    scale = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    result = standard * scale[None, :] + shift[None, :]
    tl.store(output + place, result.to(output.dtype.element_ty), mask=there)


@triton.jit
def token_gradients(
    tokens, weight, grad, to_tokens, epsilon, count, channels: tl.constexpr, TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of ``TOKENS`` tokens, whose mean and deviation are found again."""
    place, there, channel, known = _place(count, channels, TOKENS, CHANNELS)
    standard, inverse = _standard(tokens, place, there, channels, epsilon)
    scale = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    slopes = tl.load(grad + place, mask=there, other=0.0).to(tl.float32) * scale[None, :]
    mean = tl.sum(slopes, 1) / channels
    along = tl.sum(slopes * standard, 1) / channels
    result = (slopes - mean[:, None] - standard * along[:, None]) * inverse[:, None]
    tl.store(to_tokens + place, result.to(to_tokens.dtype.element_ty), mask=there)
