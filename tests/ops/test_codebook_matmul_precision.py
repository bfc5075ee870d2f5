"""Training products in bfloat16: rounded factors, float32 sums."""

from __future__ import annotations

import functools

import mlx.core as mx
import numpy as np
import pytest

import ghost_native as gn
from ghost_native.reference.codebook_matmul import codebook_matmul_ref, codebook_matmul_vjp_ref
from tests.operators import vjp
from tests.ops.codebook_operands import latent_operands
from tests.tolerances import assert_close, nrmse


@pytest.mark.parametrize(
    ("lead", "n", "k"), [((65,), 70, 128), ((4201,), 96, 80), ((1030,), 48, 256), ((130,), 257, 1104), ((7,), 64, 64)]
)
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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_latent_in_bfloat16_of_half_rows(dtype):
    (x, xr), (w, _), (codebook, cr), (dy, dyr) = latent_operands((131,), 70, 80, dtype=dtype)
    words = np.array(gn.codebook_assign(w, codebook))
    dx, dcodebook, dweight = codebook_matmul_vjp_ref(xr, words, cr, dyr)
    fn = functools.partial(gn.codebook_matmul_latent, activation="bfloat16")
    for got, want in zip(vjp(fn, [x, w, codebook], [dy]), (dx, dweight, dcodebook), strict=True):
        assert nrmse(got, want) < 1e-2


@pytest.mark.parametrize("activation", ["float32", "bfloat16"])
@pytest.mark.parametrize("per", ["row", "tensor", 32])
def test_half_levels_are_a_codebook_rounded_before(impl, per, activation):
    """The same bits, gradients included: those of the rounded codebook, which pass unrounded."""
    (x, _), (w, _), (codebook, _), (dy, _) = latent_operands((70,), 65, 96, per)
    codebook = codebook * 1.2345
    assert not mx.array_equal(codebook, codebook.astype(mx.float16).astype(mx.float32))
    half = functools.partial(gn.codebook_matmul_latent, activation=activation, half_levels=True)
    before = functools.partial(gn.codebook_matmul_latent, activation=activation)
    rounded = codebook.astype(mx.float16).astype(mx.float32)
    assert mx.array_equal(half(x, w, codebook), before(x, w, rounded))
    if activation == "float32":
        assert not mx.array_equal(half(x, w, codebook), before(x, w, codebook))
    for got, want in zip(
        vjp(half, [x, w, codebook], [1e6 * dy]), vjp(before, [x, w, rounded], [1e6 * dy]), strict=True
    ):
        assert mx.array_equal(got, want) and mx.isfinite(got).all()


def test_half_levels_under_transforms(impl):
    (x, _), (w, _), (codebook, _), (dy, _) = latent_operands((4, 7), 9, 64)
    rounded = codebook.astype(mx.float16).astype(mx.float32)
    half = functools.partial(gn.codebook_matmul_latent, half_levels=True)
    y = half(x, w, codebook)
    assert mx.array_equal(mx.compile(half, shapeless=True)(x, w, codebook), y)
    assert_close(mx.vmap(half, in_axes=(1, None, None))(x, w, codebook), np.moveaxis(np.array(y), 1, 0))
    assert_close(mx.vmap(half, in_axes=(None, None, 0))(x, w, mx.stack([codebook] * 2))[1], y)

    def inner(fn, book):
        return mx.grad(lambda x: (mx.grad(lambda c: (fn(x, w, c) * dy).sum())(book) * book).sum())(x)

    codes = gn.codebook_assign(w, rounded)
    assert_close(inner(half, codebook), mx.grad(lambda x: (gn.codebook_matmul(x, codes, codebook) * dy).sum())(x))
    grad = mx.grad(lambda c: (half(x, w, c) * dy).sum())(codebook)
    assert_close(grad, mx.grad(lambda c: (gn.codebook_matmul_latent(x, w, c) * dy).sum())(rounded))
    _, (dot,) = mx.jvp(lambda c: half(x, w, c), [codebook], [rounded])
    assert_close(dot, y)


def test_latent_activations_allowed():
    with pytest.raises(
        ValueError, match=r"\[codebook_matmul_latent\] unknown activation, given 'int8', allowed: 'float32', 'bf"
    ):
        gn.codebook_matmul_latent(mx.zeros((2, 16)), mx.zeros((3, 16)), mx.zeros((4,)), activation="int8")
