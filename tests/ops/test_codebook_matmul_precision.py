"""Products in bfloat16 and int8: rounded factors, float32 sums; in training those in bfloat16."""

from __future__ import annotations

import functools

import mlx.core as mx
import numpy as np
import pytest

import ghost_native as gn
from ghost_native.reference.codebook_matmul import codebook_matmul_ref, codebook_matmul_vjp_ref
from tests.operators import vjp
from tests.ops.codebook_operands import MODES, latent_operands, operands
from tests.tolerances import assert_close, nrmse


@pytest.mark.parametrize("activation", MODES)
@pytest.mark.parametrize("transpose", [True, False])
def test_activation_modes(isa, activation, transpose):
    """Each mode is exact arithmetic on rounded operands, whatever the instructions; and its error is as documented."""
    limit = {"float32": 1e-6, "bfloat16": 3.5e-3, "int8": 2e-2}[activation]
    for rows, n, k, per in [
        (1, 70, 560, "row"),
        (2, 66, 768, "tensor"),
        (3, 34, 640, 64),
        (7, 37, 272, "row"),
        (33, 21, 288, 32),
        (32, 33, 560, "row"),
        (45, 70, 1104, "tensor"),
        (47, 65, 1088, 64),
    ]:
        (x, xr), (codes, words), (codebook, cr), _ = operands((rows,), n, k, per, transpose=transpose)
        y = gn.codebook_matmul(x, codes, codebook, transpose=transpose, activation=activation)
        rounded_first = codebook_matmul_ref(xr, words, cr, transpose=transpose, activation=activation)
        assert_close(y, rounded_first, what=f"{activation} {rows} {per}")
        assert nrmse(y, codebook_matmul_ref(xr, words, cr, transpose=transpose)) < limit


@pytest.mark.parametrize("activation", MODES[1:])
def test_not_finite_in_a_reduced_mode_stays_in_its_row(isa, activation):
    for rows in (2, 40):
        (x, _), (codes, _), (codebook, _), _ = operands((rows,), 37, 272)
        want = np.array(gn.codebook_matmul(x, codes, codebook, activation=activation))
        x[1, -1] = np.nan
        y = np.array(gn.codebook_matmul(x, codes, codebook, activation=activation))
        assert not np.isfinite(y[1]).any()
        np.testing.assert_array_equal(np.delete(y, 1, axis=0), np.delete(want, 1, axis=0))


@pytest.mark.parametrize("activation", MODES)
def test_activation_modes_of_all_forms(impl, activation):
    (x, xr), (codes, words), (codebook, cr), (dy, dyr) = operands((5,), 40, 64, 32, "bfloat16")
    y = gn.codebook_matmul(x, codes, codebook, activation=activation)
    exact = impl == "metal"  # the modes are for CPUs
    assert_close(y, codebook_matmul_ref(xr, words, cr, activation="float32" if exact else activation), "bfloat16")
    zeros = gn.codebook_matmul(mx.zeros_like(x), codes, mx.zeros_like(codebook), activation=activation)
    assert mx.array_equal(zeros, mx.zeros_like(y))
    if impl == "cpu":
        dx, _ = vjp(lambda x, c: gn.codebook_matmul(x, codes, c, activation=activation), [x, codebook], [dy])
        assert_close(dx, codebook_matmul_vjp_ref(xr, words, cr, dyr)[0], "bfloat16")


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
