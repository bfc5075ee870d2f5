"""NumPy float64 reference of cross-entropy with integer targets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float


def _parts(logits: Float, targets: npt.ArrayLike) -> tuple[Float, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """log-probabilities, which rows count, and their targets as indices with 0 for the others."""
    index = np.asarray(targets).astype(np.int64)
    valid = (index >= 0) & (index < logits.shape[-1])
    top = logits.max(-1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    return log_p, valid, np.where(valid, index, 0)


def cross_entropy_ref(logits: npt.ArrayLike, targets: npt.ArrayLike) -> Float:
    """-log p[target] of every row (..., classes); 0 where the target is no class."""
    log_p, valid, index = _parts(np.asarray(logits, np.float64), targets)
    return np.where(valid, -np.take_along_axis(log_p, index[..., None], -1)[..., 0], 0.0)


def cross_entropy_vjp_ref(logits: npt.ArrayLike, targets: npt.ArrayLike, dloss: npt.ArrayLike) -> Float:
    """dlogits."""
    log_p, valid, index = _parts(np.asarray(logits, np.float64), targets)
    hit = np.arange(log_p.shape[-1]) == index[..., None]
    dlogits: Float = (np.exp(log_p) - hit) * np.where(valid, np.asarray(dloss, np.float64), 0.0)[..., None]
    return dlogits
