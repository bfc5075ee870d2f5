"""What operator tests share: rounded random inputs, gradients with given cotangents, central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def rounded(x: np.ndarray, dtype: str) -> tuple[mx.array, np.ndarray]:
    """x rounded to dtype, as an MLX array and as the float64 array of exactly those values."""
    array = mx.array(np.asarray(x, np.float32)).astype(DTYPES[dtype])
    return array, np.array(array.astype(mx.float32)).astype(np.float64)


def vjp(fn: Callable[..., Any], primals: Sequence[mx.array], cotangents: Sequence[mx.array]) -> list[mx.array]:
    """Gradients of fn in all primals."""

    def as_list(*args: mx.array) -> list[mx.array]:
        out = fn(*args)
        return list(out) if isinstance(out, (tuple, list)) else [out]

    return mx.vjp(as_list, list(primals), list(cotangents))[1]


def central_differences(
    fn: Callable[[list[np.ndarray]], Sequence[np.ndarray]],
    primals: Sequence[np.ndarray],
    cotangents: Sequence[np.ndarray],
    step: float = 1e-5,
) -> list[np.ndarray]:
    """Numeric gradients, in float64, of sum(cotangent * output) in every entry of every primal."""

    def objective(values: list[np.ndarray]) -> float:
        return sum(float((c * o).sum()) for c, o in zip(cotangents, fn(values), strict=True))

    gradients = []
    values = [np.array(p, np.float64) for p in primals]
    for value in values:
        gradient = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            kept = value[index]
            value[index] = kept + step
            above = objective(values)
            value[index] = kept - step
            gradient[index] = (above - objective(values)) / (2 * step)
            value[index] = kept
        gradients.append(gradient)
    return gradients
