"""NumPy float64 reference of SiLU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float


def silu_ref(x: npt.ArrayLike) -> Float:
    """x / (1 + exp(-x))."""
    x = np.asarray(x, np.float64)
    y: Float = x * 0.5 * (1 + np.tanh(0.5 * x))
    return y


def silu_vjp_ref(x: npt.ArrayLike, dy: npt.ArrayLike) -> Float:
    """dx."""
    x = np.asarray(x, np.float64)
    s = 0.5 * (1 + np.tanh(0.5 * x))
    dx: Float = np.asarray(dy, np.float64) * s * (1 + x * (1 - s))
    return dx
