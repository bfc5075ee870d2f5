"""Choosing the next byte from logits."""

from __future__ import annotations

import math

import mlx.core as mx


def check_sampling(temperature: float, top_p: float, name: str = "sample") -> None:
    """ValueError unless temperature is finite and at least 0, and top_p is above 0 and at most 1."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"[{name}] temperature is {temperature}, allowed is 0 (the most likely byte) or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"[{name}] top_p is {top_p}, allowed is above 0 and at most 1")


def sample(logits: mx.array, temperature: float = 1.0, top_p: float = 1.0, key: mx.array | None = None) -> mx.array:
    """Draw one index for each row of logits.

    The logits are divided by `temperature`, then the smallest set of most likely indices whose probabilities reach
    `top_p` is kept (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751; at least one index stays), and one is
    drawn in proportion to its probability. All of it in float32.

    Args:
        logits: (..., vocabulary), any float dtype.
        temperature: 0 chooses the most likely index, the first of equals.
        top_p: share of the probability to keep, in (0, 1].
        key: random key of `mx.random.key`; MLX's global state when None. Unused at temperature 0.

    Returns:
        (...) int32. Not differentiable.

    Raises:
        ValueError: temperature or top_p out of range, or no vocabulary axis.
    """
    check_sampling(temperature, top_p)
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise ValueError(f"[sample] logits have shape {logits.shape}, at least one logit on the last axis is needed")
    logits = logits.astype(mx.float32)
    if temperature == 0:
        return mx.argmax(logits, axis=-1).astype(mx.int32)
    # The maximum goes first so that a tiny temperature underflows to -inf and never gives inf - inf.
    scaled = (logits - mx.max(logits, axis=-1, keepdims=True)) / temperature
    if top_p == 1:
        return mx.random.categorical(scaled, key=key).astype(mx.int32)
    order = mx.argsort(-scaled, axis=-1)
    scaled = mx.take_along_axis(scaled, order, axis=-1)
    probabilities = mx.softmax(scaled, axis=-1)
    before = mx.cumsum(probabilities, axis=-1, inclusive=False)
    drawn = mx.random.categorical(mx.where(before < top_p, scaled, -mx.inf), key=key)
    return mx.take_along_axis(order, drawn[..., None], axis=-1).squeeze(-1).astype(mx.int32)
