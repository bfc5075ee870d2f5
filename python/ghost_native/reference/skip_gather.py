"""NumPy float64 reference of routing plans and of the gather and scatter along them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float

Int = npt.NDArray[np.int32]


def routing_plan_ref(
    mask: npt.ArrayLike, *, capacity: int | None = None, cu_seqlens: npt.ArrayLike | None = None
) -> tuple[Int, Int, int]:
    """indices, cu_seqlens and count; arguments as in ``ghost_native.routing_plan``."""
    mask = np.asarray(mask, bool)
    total = mask.size
    if cu_seqlens is not None:
        bounds = np.asarray(cu_seqlens)
    elif mask.ndim == 2:
        bounds = np.arange(mask.shape[0] + 1) * mask.shape[1]
    else:
        bounds = np.array([0, total])
    rows = np.flatnonzero(mask)
    rows = rows[(rows >= bounds[0]) & (rows < bounds[-1])]
    count = len(rows)
    capacity = count if capacity is None else capacity
    indices = np.full(capacity, total, np.int32)
    kept = min(count, capacity)
    indices[:kept] = rows[:kept]
    return indices, np.minimum(np.searchsorted(rows, bounds), capacity).astype(np.int32), count


def _entries(indices: npt.ArrayLike, total: int) -> dict[int, int]:
    """The entry of the plan that names each row, the last one if there are several."""
    return {int(row): i for i, row in enumerate(np.asarray(indices)) if 0 <= row < total}


def skip_gather_ref(x: npt.ArrayLike, indices: npt.ArrayLike) -> Float:
    """Rows (n, dim) of x (..., dim); zeros for indices out of range."""
    x = np.asarray(x, np.float64)
    flat = x.reshape(-1, x.shape[-1]) if x.size else np.zeros((0, x.shape[-1]))
    y = np.zeros((len(np.asarray(indices)), x.shape[-1]))
    for i, row in enumerate(np.asarray(indices)):
        if 0 <= row < len(flat):
            y[i] = flat[row]
    return y


def skip_gather_vjp_ref(x: npt.ArrayLike, indices: npt.ArrayLike, dy: npt.ArrayLike) -> Float:
    """dx for the cotangent of the gathered rows."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    dx = np.zeros(x.shape)
    flat = dx.reshape(int(np.prod(x.shape[:-1])), x.shape[-1])
    for row, i in _entries(indices, len(flat)).items():
        flat[row] = dy[i]
    return dx


def skip_scatter_ref(
    x: npt.ArrayLike, y: npt.ArrayLike, indices: npt.ArrayLike, gate: npt.ArrayLike | None = None
) -> Float:
    """x with the rows of the plan replaced by y, or by x + gate * (y - x)."""
    out, y = np.array(x, np.float64, order="C"), np.asarray(y, np.float64)
    gate = np.ones(len(y)) if gate is None else np.asarray(gate, np.float64)
    flat = out.reshape(int(np.prod(out.shape[:-1])), out.shape[-1])
    for row, i in _entries(indices, len(flat)).items():
        flat[row] += gate[i] * (y[i] - flat[row])
    return out


def skip_scatter_vjp_ref(
    x: npt.ArrayLike, y: npt.ArrayLike, indices: npt.ArrayLike, gate: npt.ArrayLike | None, dout: npt.ArrayLike
) -> tuple[Float, Float, Float]:
    """Gradients dx, dy, dgate."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    gate = np.ones(len(y)) if gate is None else np.asarray(gate, np.float64)
    dx = np.array(dout, np.float64, order="C")
    dy, dgate = np.zeros(y.shape), np.zeros(len(y))
    rows = int(np.prod(x.shape[:-1]))
    flat, dflat = x.reshape(rows, x.shape[-1]), dx.reshape(rows, x.shape[-1])
    for row, i in _entries(indices, rows).items():
        dy[i] = gate[i] * dflat[row]
        dgate[i] = dflat[row] @ (y[i] - flat[row])
        dflat[row] *= 1 - gate[i]
    return dx, dy, dgate
