from __future__ import annotations

import functools

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference.dense_matmul import dense_matmul_ref, dense_matmul_vjp_ref
from tests.operators import DTYPES, central_differences, rounded, vjp
from tests.tolerances import NRMSE, assert_close, nrmse


def operands(lead, n, k, dtype="float32", weight_dtype=None, seed=0):
    """x, weight, dy as (mlx, float64) pairs."""
    r = np.random.default_rng(seed)
    kinds = [dtype, weight_dtype or dtype, dtype]
    shapes = [(*lead, k), (n, k), (*lead, n)]
    return [rounded(r.standard_normal(s), kind) for s, kind in zip(shapes, kinds, strict=True)]


def check(pairs, dtype):
    (x, xr), (w, wr), (dy, dyr) = pairs
    y = gn.dense_matmul(x, w)
    assert y.dtype == x.dtype
    assert_close(y, dense_matmul_ref(xr, wr), dtype, "y")
    for name, primal, got, want in zip(
        ["dx", "dweight"], [x, w], vjp(gn.dense_matmul, [x, w], [dy]), dense_matmul_vjp_ref(xr, wr, dyr), strict=True
    ):
        assert got.dtype == primal.dtype
        assert_close(got, want, dtype, name)


def test_reference_vjp_matches_central_differences():
    (_, x), (_, w), (_, dy) = operands((2, 3), 5, 4)
    numeric = central_differences(lambda v: [dense_matmul_ref(*v)], [x, w], [dy])
    for got, want in zip(numeric, dense_matmul_vjp_ref(x, w, dy), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("lead", "n", "k"),
    [((2,), 63, 1), ((), 33, 31), ((3, 5), 17, 40), ((15,), 64, 129), ((2, 67), 31, 255), ((300,), 97, 8)],
)
def test_matches_reference(impl, dtype, lead, n, k):
    check(operands(lead, n, k, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set(isa, dtype):
    for lead, n, k in [((1,), 19, 47), ((4,), 9, 33), ((29,), 35, 300), ((131,), 37, 33)]:
        check(operands(lead, n, k, dtype), dtype)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows_by_several_threads(isa, dtype, rows):
    """Gradients that read or write the larger matrix in place; what a thread begins with does not change the bits."""
    pairs = operands((rows,), 1025, 1100, dtype)
    (x, _), (w, _), (dy, _) = pairs
    results = []
    before = gn.num_threads()
    for threads in (1, 3):
        gn.set_num_threads(threads)
        check(pairs, dtype)
        results.append(vjp(gn.dense_matmul, [x, w], [dy]))
        mx.eval(results)
    gn.set_num_threads(before)
    assert all(mx.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_mixed_dtypes():
    check(operands((21,), 19, 33, "bfloat16", "float32"), "bfloat16")
    check(operands((21,), 19, 33, "float32", "float16"), "float16")


@pytest.mark.parametrize(
    ("rows", "n", "k"),
    [(600, 700, 520), (1100, 150, 600), (9, 33, 9000), (5000, 20, 12), (20, 3000, 700), (290, 1100, 4300)],
)
def test_blocks_and_threads(rows, n, k):
    """Sizes over every block of the engine: depth over 4096, several tiles and rounds, panels shared or not."""
    check(operands((rows,), n, k), "float32")
    check(operands((rows,), n, k, "bfloat16"), "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("lead", "n", "k"), [((65,), 70, 128), ((4201,), 33, 80), ((5, 26), 257, 1104), ((7,), 64, 64)]
)
def test_in_bfloat16(isa, dtype, lead, n, k):
    """Factors rounded to bfloat16 and float32 sums, of both gradients too; odd depths are padded."""
    (x, xr), (w, wr), (dy, dyr) = operands(lead, n, k, dtype)
    fn = functools.partial(gn.dense_matmul, activation="bfloat16")
    y = fn(x, w)
    expected = dense_matmul_ref(xr, wr)
    assert y.dtype == x.dtype and nrmse(y, expected) < 4e-3
    for got, want in zip(vjp(fn, [x, w], [dy]), dense_matmul_vjp_ref(xr, wr, dyr), strict=True):
        assert nrmse(got, want) < 4e-3
    if isa == "avx512_bf16" and np.prod(lead) >= 32:
        if dtype == "float32":
            assert nrmse(y, expected) > 1e-4, "not in bfloat16"
        factors = [np.array(v.astype(mx.bfloat16).astype(mx.float32)) for v in (x, w)]
        assert_close(y, dense_matmul_ref(*factors), dtype)
    else:
        assert mx.array_equal(y, gn.dense_matmul(x, w))


def test_batched_in_bfloat16(impl):
    r = np.random.default_rng(3)
    x, w = (mx.array(r.standard_normal(s), dtype=mx.float32) for s in ((3, 40, 64), (3, 50, 64)))
    y = gn.dense_matmul(x, w, activation="bfloat16")
    assert nrmse(y, np.array(x) @ np.array(w).swapaxes(1, 2)) < 4e-3
    for b in range(3):
        assert_close(y[b], gn.dense_matmul(x[b], w[b], activation="bfloat16"))


def test_activations_allowed():
    with pytest.raises(ValueError, match=r"\[dense_matmul\] unknown activation, given 'int8', allowed: 'float32', 'bf"):
        gn.dense_matmul(mx.zeros((2, 3)), mx.zeros((4, 3)), activation="int8")


@pytest.mark.parametrize(("lead", "n", "k"), [((0,), 4, 5), ((3,), 0, 5), ((3,), 4, 0), ((2, 0), 3, 3), ((), 0, 4)])
def test_empty(impl, lead, n, k):
    check(operands(lead, n, k), "float32")


def test_strided_and_broadcast_inputs(impl):
    r = np.random.default_rng(1)
    x = mx.array(r.standard_normal((2, 20, 40)), dtype=mx.float32).transpose(0, 2, 1)[:, ::2, 1:]
    w = mx.broadcast_to(mx.array(r.standard_normal((1, 19)), dtype=mx.float32), (7, 19))
    assert_close(gn.dense_matmul(x, w), dense_matmul_ref(np.array(x), np.array(w)))
    dy = mx.broadcast_to(mx.array([1.0, 2.0, -1.0, 0.5, 3.0, 1.0, 1.0]), (2, 20, 7))
    expected = dense_matmul_vjp_ref(np.array(x), np.array(w), np.array(dy))
    for got, want in zip(vjp(gn.dense_matmul, [x, w], [dy]), expected, strict=True):
        assert_close(got, want)


def test_half_precision_sum_would_fail():
    (_, x), (_, w), _ = operands((40,), 30, 256, "bfloat16")
    total = mx.zeros((40, 30), dtype=mx.bfloat16)
    for k in range(256):
        total = total + mx.array(np.outer(x[:, k], w[:, k]), dtype=mx.bfloat16)
    assert nrmse(total, dense_matmul_ref(x, w)) > NRMSE["bfloat16"]


def test_dropped_tail_would_fail():
    (_, x), (_, w), _ = operands((40,), 30, 257)
    assert nrmse(dense_matmul_ref(x[:, :256], w[:, :256]), dense_matmul_ref(x, w)) > 100 * NRMSE["float32"]


@given(rows=st.integers(0, 40), n=st.integers(0, 70), k=st.integers(0, 70), seed=st.integers(0, 99))
def test_any_shape(rows, n, k, seed):
    """Entry by entry, against the magnitude of the summands: a single result may cancel to nothing."""
    (x, xr), (w, wr), _ = operands((rows,), n, k, seed=seed)
    error = np.abs(np.array(gn.dense_matmul(x, w)) - dense_matmul_ref(xr, wr))
    assert (error <= 1e-6 * dense_matmul_ref(np.abs(xr), np.abs(wr))).all()


@pytest.mark.parametrize(("rows", "n", "k"), [(530, 300, 270), (200, 1100, 700)])
def test_same_bits_for_any_thread_count(rows, n, k):
    (x, _), (w, _), (dy, _) = operands((rows,), n, k)
    results = []
    before = gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        results.append([gn.dense_matmul(x, w), *vjp(gn.dense_matmul, [x, w], [dy])])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    for other in results[1:]:
        assert all(mx.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_transforms(impl):
    (x, xr), (w, wr), (dy, dyr) = operands((6, 7), 9, 21)
    y = gn.dense_matmul(x, w)
    assert mx.array_equal(mx.compile(gn.dense_matmul)(x, w), y)
    shapeless = mx.compile(gn.dense_matmul, shapeless=True)
    assert mx.array_equal(shapeless(x, w), y)
    longer = mx.concatenate([x, x], axis=0)[:, 1:]
    assert_close(shapeless(longer, w), dense_matmul_ref(np.array(longer), wr))

    assert_close(mx.vmap(gn.dense_matmul, in_axes=(1, None))(x, w), np.moveaxis(dense_matmul_ref(xr, wr), 1, 0))
    weights = mx.stack([w, 2 * w, w + 1])
    mapped = mx.vmap(gn.dense_matmul, in_axes=(None, 0))(x, weights)
    assert_close(mapped, np.stack([dense_matmul_ref(xr, np.array(v)) for v in weights]))

    _, (dot,) = mx.jvp(gn.dense_matmul, [x, w], [2 * x, w])
    assert_close(dot, 3 * dense_matmul_ref(xr, wr))

    # Second order in both operands: d/dw of <x, grad_x (dy . y)> is dy^T x.
    def inner(x, w):
        return (mx.grad(lambda x: (gn.dense_matmul(x, w) * dy).sum())(x) * x).sum()

    assert_close(mx.grad(inner, argnums=1)(x, w), dense_matmul_vjp_ref(xr, wr, dyr)[1])
    assert_close(mx.grad(inner, argnums=0)(x, w), dense_matmul_vjp_ref(xr, wr, dyr)[0])


def test_every_gradient_of_a_gradient():
    """The products that gradients are made of have gradients of their own."""
    (x, xr), (w, wr), (dy, dyr) = operands((5,), 7, 11)
    (v, vr), _, _ = operands((7,), 1, 11, seed=3)

    def weight_gradient(x, dy):
        return mx.vjp(lambda w: gn.dense_matmul(x, w), [w], [dy])[1][0]

    dx, ddy = vjp(weight_gradient, [x, dy], [v])
    assert_close(dx, dyr @ vr)
    assert_close(ddy, xr @ vr.T)
    tangent = mx.jvp(lambda dy: mx.vjp(lambda x: gn.dense_matmul(x, w), [x], [dy])[1][0], [dy], [2 * dy])[1][0]
    assert_close(tangent, 2 * dyr @ wr)


def test_any_stream():
    (x, _), (w, _), _ = operands((6,), 9, 21)
    stream = mx.new_stream(mx.cpu)
    assert mx.array_equal(gn.dense_matmul(x, w, stream=stream), gn.dense_matmul(x, w))


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (
            mx.zeros((2, 5)),
            mx.zeros((3, 4)),
            r"\[dense_matmul\] x has the wrong shape, given \(2, 5\), allowed: \(\.\.\., K\) with K = 4",
        ),
        (mx.array(1.0), mx.zeros((3, 4)), r"\[dense_matmul\] x has the wrong shape, given \(\)"),
        (
            mx.zeros((2, 4)),
            mx.zeros((4,)),
            r"\[dense_matmul\] weight has the wrong shape, given \(4,\), allowed: \(N, K\)",
        ),
        (mx.zeros((2, 4), dtype=mx.int32), mx.zeros((3, 4)), r"\[dense_matmul\] x has the wrong dtype, given int32"),
        (
            mx.zeros((2, 4)),
            mx.zeros((3, 4), dtype=mx.uint8),
            r"\[dense_matmul\] weight has the wrong dtype, given uint8",
        ),
    ],
)
def test_malformed_input(x, weight, message):
    with pytest.raises(ValueError, match=message):
        gn.dense_matmul(x, weight)
