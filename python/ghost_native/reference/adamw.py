"""NumPy float64 reference of AdamW."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float


def adamw_update_ref(
    parameter: npt.ArrayLike,
    gradient: npt.ArrayLike,
    m: npt.ArrayLike,
    v: npt.ArrayLike,
    rate: float,
    step: int,
    *,
    scale: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Float, Float, Float]:
    """The parameter, m and v after one step."""
    p, g, m, v = (np.asarray(x, np.float64) for x in (parameter, gradient, m, v))
    g = g * scale
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g**2
    move = m / (1 - betas[0] ** step) / (np.sqrt(v / (1 - betas[1] ** step)) + eps)
    return (1 - rate * weight_decay) * p - rate * move, m, v
