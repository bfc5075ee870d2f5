"""Choosing the next byte from logits."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import numpy.typing as npt


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
    drawn in proportion to its probability, by one uniform number for each row. The logits are evaluated: a few hundred
    of them are done on the host before an operation has been started.

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
    uniform = mx.random.uniform(shape=logits.shape[:-1], key=key) if temperature > 0 else mx.zeros(logits.shape[:-1])
    rows = np.array(logits.astype(mx.float32))
    return mx.array(choose(rows, temperature, top_p, np.array(uniform)).astype(np.int32))


def choose(
    logits: npt.NDArray[np.float32], temperature: float, top_p: float, uniform: npt.NDArray[np.float32]
) -> npt.NDArray[np.intp]:
    """`sample` on the host: logits (..., vocabulary), uniform (...) in [0, 1); indices (...)."""
    if temperature == 0:
        return np.asarray(logits.argmax(-1))
    # The maximum goes first, so that a tiny temperature underflows to zero probability and never gives inf - inf.
    # float64, so that a sum over the vocabulary reaches its end.
    weights = np.subtract(logits, logits.max(-1, keepdims=True), dtype=np.float64)
    np.divide(weights, temperature, out=weights)
    np.exp(weights, out=weights)
    if top_p == 1:
        return _inverse(weights, uniform)
    rows = weights.reshape(-1, weights.shape[-1])
    line = np.arange(len(rows))
    order = np.argsort(-rows, axis=-1, kind="stable")
    ordered = rows[line[:, None], order]
    sums = ordered.cumsum(-1)
    ordered[sums - ordered >= top_p * sums[:, -1:]] = 0
    return order[line, _inverse(ordered, uniform.reshape(-1))].reshape(uniform.shape)


def _inverse(weights: npt.NDArray[np.float64], uniform: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """The first index up to which the weights sum to more than a share `uniform` of all."""
    sums = weights.cumsum(-1)
    return np.asarray((sums > uniform[..., None] * sums[..., -1:]).argmax(-1))
