"""Training products in bfloat16: rounded factors, float32 sums."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import ghost_native as gn
from ghost_native.reference.codebook_matmul import codebook_matmul_ref, codebook_matmul_vjp_ref
from tests.operators import vjp
from tests.ops.codebook_operands import latent_operands
from tests.tolerances import nrmse


@pytest.mark.parametrize(("lead", "n", "k"), [((65,), 70, 128), ((4201,), 96, 80), ((130,), 257, 1104), ((7,), 64, 64)])
@pytest.mark.parametrize("per", ["row", "tensor"])
def test_latent_in_bfloat16(isa, per, lead, n, k):
    """Products of factors rounded to bfloat16 with float32 sums, forward and backward; odd depths are padded."""
    (x, xr), (w, _), (codebook, cr), (dy, dyr) = latent_operands(lead, n, k, per)
    words = np.array(gn.codebook_assign(w, codebook))

    def fn(*args):
        return gn.codebook_matmul_latent(*args, activation="bfloat16")

    expected = codebook_matmul_ref(xr, words, cr)
    dx, dcodebook, dweight = codebook_matmul_vjp_ref(xr, words, cr, dyr)
    got_dx, dw, got_dcodebook = vjp(fn, [x, w, codebook], [dy])
    y = fn(x, w, codebook)
    for got, want in ((y, expected), (got_dx, dx), (dw, dweight), (got_dcodebook, dcodebook)):
        assert nrmse(got, want) < 6e-3  # two factors, each rounded by up to 2**-9; codebook sums cancel
    if isa == "avx512_bf16" and lead[0] >= 64:
        assert nrmse(y, expected) > 1e-4, "not in bfloat16"


def test_latent_activations_allowed():
    with pytest.raises(
        ValueError, match=r"\[codebook_matmul_latent\] unknown activation, given 'int8', allowed: 'float32', 'bf"
    ):
        gn.codebook_matmul_latent(mx.zeros((2, 16)), mx.zeros((3, 16)), mx.zeros((4,)), activation="int8")
