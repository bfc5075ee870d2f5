"""NumPy float64 reference of the hyperbolic tangent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float


def tanh_ref(x: npt.ArrayLike) -> Float:
    """tanh(x)."""
    y: Float = np.tanh(np.asarray(x, np.float64))
    return y


def tanh_vjp_ref(x: npt.ArrayLike, dy: npt.ArrayLike) -> Float:
    """dx."""
    dx: Float = np.asarray(dy, np.float64) * (1 - np.tanh(np.asarray(x, np.float64)) ** 2)
    return dx
