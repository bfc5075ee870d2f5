"""NumPy float64 reference of the dense matrix product."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]


def dense_matmul_ref(x: npt.ArrayLike, weight: npt.ArrayLike) -> Float:
    """``x @ weight.T`` for x (..., K) and weight (N, K)."""
    return np.asarray(np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T)


def dense_matmul_vjp_ref(x: npt.ArrayLike, weight: npt.ArrayLike, dy: npt.ArrayLike) -> tuple[Float, Float]:
    """Gradients dx, dweight for the cotangent dy (..., N)."""
    x, weight, dy = (np.asarray(v, np.float64) for v in (x, weight, dy))
    rows, columns = weight.shape
    return dy @ weight, _as_rows(dy, rows).T @ _as_rows(x, columns)


def _as_rows(x: Float, columns: int) -> Float:
    return x.reshape(int(np.prod(x.shape[:-1], dtype=int)), columns)
