"""Operands of the codebook operators, and how gradients of a codebook are compared."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ghost_native.reference.codebook_matmul import pack_ref
from tests.operators import rounded
from tests.tolerances import NRMSE, assert_close, to_numpy

MODES = ["float32", "bfloat16", "int8"]  # of activations


def codebook_shape(n, k, per):
    return {"tensor": (4,), "row": (n, 1, 4)}.get(per) or (n, k // per, 4)


def operands(lead, n, k, per="row", dtype="float32", transpose=True, seed=0):
    """x, codes, codebook, dy as (mlx, reference) pairs; codes as words on both sides."""
    r = np.random.default_rng(seed)
    words = pack_ref(r.integers(0, 4, (n, k)))
    codebook = rounded(r.standard_normal(codebook_shape(n, k, per)), dtype)
    x = rounded(r.standard_normal((*lead, k if transpose else n)), dtype)
    dy = rounded(r.standard_normal((*lead, n if transpose else k)), dtype)
    return x, (mx.array(words), words), codebook, dy


def assert_codebook_gradient(got, expected, dweight, dtype):
    """Four sums over a whole weight may cancel: they are compared with the magnitude of what is summed."""
    if expected.ndim == 3:
        assert_close(got, expected, dtype, "dcodebook")
    else:
        assert np.abs(to_numpy(got) - expected).max(initial=0) <= NRMSE[dtype] * 2 * np.linalg.norm(dweight)


def latent_operands(lead, n, k, per="row", dtype="float32", seed=0):
    r = np.random.default_rng(seed)
    x, dy = (rounded(r.standard_normal((*lead, size)), dtype) for size in (k, n))
    w = rounded(r.standard_normal((n, k)), "float32")
    levels = np.sort(r.standard_normal(codebook_shape(n, k, per)), axis=-1)
    return x, w, rounded(levels, "float32"), dy


def moved(a):
    """The same values three elements into an array's memory, where nothing is aligned to vectors."""
    longer = mx.concatenate([mx.zeros((3,), a.dtype), a.reshape(-1)])
    mx.eval(longer)
    return longer[3:].reshape(a.shape)
