"""NumPy float64 reference of the embedding lookup."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float


def embedding_ref(weight: npt.ArrayLike, tokens: npt.ArrayLike) -> Float:
    """Rows (..., dim) of weight (vocab, dim); zeros for tokens out of range."""
    weight, index = np.asarray(weight, np.float64), np.asarray(tokens).astype(np.int64)
    valid = (index >= 0) & (index < len(weight))
    padded = np.concatenate([weight, np.zeros((1, weight.shape[1]))])
    rows: Float = padded[np.where(valid, index, len(weight))]
    return rows


def embedding_vjp_ref(weight: npt.ArrayLike, tokens: npt.ArrayLike, dy: npt.ArrayLike) -> Float:
    """dweight, dense."""
    weight, index = np.asarray(weight, np.float64), np.asarray(tokens).astype(np.int64).ravel()
    dweight = np.zeros(weight.shape)
    valid = (index >= 0) & (index < len(weight))
    rows = np.asarray(dy, np.float64).reshape(len(index), weight.shape[1])
    np.add.at(dweight, index[valid], rows[valid])
    return dweight
