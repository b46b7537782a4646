"""Layer normalisation of tokens for a graphics card, in Triton: a wide number in, one of half the width out.

Tokens are (M, C), contiguous. What is added to them before, and the gradient that goes past the normalisation, take no
pass of their own. Importing this needs the package triton.
"""

# mypy: ignore-errors
# (what is inside is Triton's language, whose types are not Python's)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(count, channels: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.arange(0, CHANNELS)
    known = channel < channels
    return token[:, None] * channels + channel[None, :], (token < count)[:, None] & known[None, :], channel, known


@triton.jit
def _standard(given, there, channels, epsilon):
    """A few tokens with mean 0 and variance 1, and what they were divided by, inverted."""
    centred = tl.where(there, given - (tl.sum(given, 1) / channels)[:, None], 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred, 1) / channels + epsilon)
    return centred * inverse[:, None], inverse


@triton.jit
def normalise(
    tokens, branch, weight, bias, total, output, epsilon, count, channels: tl.constexpr, ADDED: tl.constexpr,
    TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """(x - mean) / deviation * weight + bias of ``TOKENS`` tokens; ``ADDED``: of tokens + branch, and their sum."""
    place, there, channel, known = _place(count, channels, TOKENS, CHANNELS)
    given = tl.load(tokens + place, mask=there, other=0.0).to(tl.float32)
    if ADDED:
        given += tl.load(branch + place, mask=there, other=0.0).to(tl.float32)
        tl.store(total + place, given.to(total.dtype.element_ty), mask=there)
    standard, _inverse = _standard(given, there, channels, epsilon)
    scale = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    result = standard * scale[None, :] + shift[None, :]
    tl.store(output + place, result.to(output.dtype.element_ty), mask=there)


@triton.jit
def token_gradients(
    total, weight, grad, past, to_tokens, to_branch, epsilon, count, channels: tl.constexpr, PAST: tl.constexpr,
    ADDED: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of ``TOKENS`` tokens, whose mean and deviation are found again, and with ``ADDED`` those of the branch.

    With ``PAST`` they include the gradient of what goes past the normalisation.
    """
    place, there, channel, known = _place(count, channels, TOKENS, CHANNELS)
    given = tl.load(total + place, mask=there, other=0.0).to(tl.float32)
    standard, inverse = _standard(given, there, channels, epsilon)
    scale = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    slopes = tl.load(grad + place, mask=there, other=0.0).to(tl.float32) * scale[None, :]
    mean = tl.sum(slopes, 1) / channels
    along = tl.sum(slopes * standard, 1) / channels
    result = (slopes - mean[:, None] - standard * along[:, None]) * inverse[:, None]
    if PAST:
        result += tl.load(past + place, mask=there, other=0.0).to(tl.float32)
    tl.store(to_tokens + place, result.to(to_tokens.dtype.element_ty), mask=there)
    if ADDED:
        tl.store(to_branch + place, result.to(to_branch.dtype.element_ty), mask=there)
