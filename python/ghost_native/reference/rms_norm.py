"""NumPy float64 reference of root mean square normalization."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float


def rms_norm_ref(x: npt.ArrayLike, weight: npt.ArrayLike, eps: float = 1e-5) -> Float:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    x = np.asarray(x, np.float64)
    y: Float = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * np.asarray(weight, np.float64)
    return y


def rms_norm_vjp_ref(
    x: npt.ArrayLike, weight: npt.ArrayLike, dy: npt.ArrayLike, eps: float = 1e-5
) -> tuple[Float, Float]:
    """Gradients dx, dweight."""
    x, weight, dy = (np.asarray(a, np.float64) for a in (x, weight, dy))
    scale = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    a = dy * weight
    dx = scale * a - x * scale**3 * (a * x).mean(-1, keepdims=True)
    dweight = (dy * x * scale).reshape(-1, x.shape[-1]).sum(0) if x.size else np.zeros(x.shape[-1])
    return dx, dweight
