"""One metric and one table of tolerances for every operator test.

NRMSE = rms(error) / rms(reference). The limits are those of a kernel with float32 state and sums whose inputs and
outputs are rounded to the dtype; a kernel that keeps its state in half precision exceeds them.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

NRMSE = {"float32": 1.2e-6, "float16": 2.9e-4, "bfloat16": 2.3e-3}


def to_numpy(x: Any) -> np.ndarray:
    """Any array as float64, bfloat16 included."""
    if isinstance(x, mx.array):
        x = np.array(x.astype(mx.float32))
    return np.asarray(x, np.float64)


def nrmse(actual: Any, expected: Any) -> float:
    actual, expected = to_numpy(actual), to_numpy(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    if expected.size == 0:
        return 0.0
    scale = float(np.sqrt(np.mean(expected**2)))
    error = float(np.sqrt(np.mean((actual - expected) ** 2)))
    return error / scale if scale > 0 else error


def assert_close(actual: Any, expected: Any, dtype: str = "float32", what: str = "result") -> None:
    """actual agrees with expected within the limit of dtype, the lowest precision on the way."""
    assert np.isfinite(to_numpy(actual)).all(), f"{what} is not finite"
    error = nrmse(actual, expected)
    assert error <= NRMSE[dtype], f"{what}: NRMSE {error:.2e} over {NRMSE[dtype]:.1e} ({dtype})"
