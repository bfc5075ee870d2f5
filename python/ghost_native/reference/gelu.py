"""NumPy float64 reference of the tanh form of GELU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float

_SCALE = np.sqrt(2 / np.pi)
_CUBIC = 0.044715


def gelu_ref(x: npt.ArrayLike) -> Float:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    x = np.asarray(x, np.float64)
    y: Float = 0.5 * x * (1 + np.tanh(_SCALE * (x + _CUBIC * x**3)))
    return y


def gelu_vjp_ref(x: npt.ArrayLike, dy: npt.ArrayLike) -> Float:
    """dx."""
    x = np.asarray(x, np.float64)
    t = np.tanh(_SCALE * (x + _CUBIC * x**3))
    slope = _SCALE * (1 + 3 * _CUBIC * x**2)
    dx: Float = np.asarray(dy, np.float64) * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * slope)
    return dx
