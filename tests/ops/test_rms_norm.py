from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference.rms_norm import rms_norm_ref, rms_norm_vjp_ref
from tests.operators import DTYPES, central_differences, rounded, vjp
from tests.tolerances import NRMSE, assert_close, nrmse, to_numpy


def operands(shape, dtype="float32", seed=0):
    """x, weight, dy as (mlx, float64) pairs."""
    r = np.random.default_rng(seed)
    kinds = [(shape, dtype), (shape[-1:], "float32"), (shape, dtype)]
    return [rounded(r.standard_normal(s), k) for s, k in kinds]


def check(shape, dtype="float32", eps=1e-5, seed=0):
    (x, xr), (w, wr), (dy, dyr) = operands(shape, dtype, seed)

    def fn(x, w):
        return gn.rms_norm(x, w, eps)

    y = fn(x, w)
    assert y.dtype == x.dtype
    assert_close(y, rms_norm_ref(xr, wr, eps), dtype, "y")
    for name, got, want in zip(["dx", "dw"], vjp(fn, [x, w], [dy]), rms_norm_vjp_ref(xr, wr, dyr, eps), strict=True):
        assert_close(got, want, dtype, name)


def test_reference_vjp_matches_central_differences():
    (_, x), (_, w), (_, dy) = operands((3, 5))
    numeric = central_differences(lambda v: [rms_norm_ref(v[0], v[1], 0.1)], [x, w], [dy])
    for got, want in zip(numeric, rms_norm_vjp_ref(x, w, dy, 0.1), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 50, 33), (997,), (3, 131, 64), (2, 1, 257), (0, 4), (130, 3), (200, 31)])
def test_matches_reference(impl, dtype, shape):
    check(shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set(isa, dtype):
    for dim in (3, 16, 45, 255):
        check((70, dim), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 50, 33), (997,), (3, 131, 64), (0, 4), (200, 31)])
def test_add_rms_norm(impl, dtype, shape):
    (x, xr), (w, wr), (dy, dyr) = operands(shape, dtype)
    (residual, rr), _, (dh, dhr) = operands(shape, dtype, seed=1)
    h, y = gn.add_rms_norm(x, residual, w)
    assert h.dtype == y.dtype == x.dtype
    assert_close(h, xr + rr, dtype, "h")
    rounded_h = to_numpy(h)
    assert_close(y, rms_norm_ref(rounded_h, wr), dtype, "y")
    dx, dresidual, dw = vjp(gn.add_rms_norm, [x, residual, w], [dh, dy])
    expected, dw_expected = rms_norm_vjp_ref(rounded_h, wr, dyr)
    assert_close(dx, expected + dhr, dtype, "dx")
    assert_close(dw, dw_expected, dtype, "dw")
    assert mx.array_equal(dx, dresidual)


def test_add_rms_norm_transforms():
    (x, _), (w, _), (r, _) = operands((3, 4, 9))
    expected = gn.rms_norm(x + r, w)
    assert_close(mx.compile(gn.add_rms_norm)(x, r, w)[1], np.array(expected))
    assert_close(mx.vmap(gn.add_rms_norm, in_axes=(0, 0, None))(x, r, w)[1], np.array(expected))
    with gn.composed_form():
        assert_close(gn.add_rms_norm(x, r, w)[1], np.array(expected))


def test_empty_rows():
    x, w = mx.zeros((3, 0)), mx.zeros((0,))
    dx, dw = vjp(gn.rms_norm, [x, w], [x])
    assert gn.rms_norm(x, w).shape == dx.shape == (3, 0) and dw.shape == (0,)


@given(rows=st.integers(0, 200), dim=st.integers(2, 40))
def test_any_shape(rows, dim):
    check((rows, dim), seed=rows)


@given(st.floats(1e-3, 1e3), st.integers(1, 70))
def test_scale_does_not_matter(scale, dim):
    (x, _), (w, _), _ = operands((4, dim))
    assert_close(gn.rms_norm(x * scale, w, 0.0), np.array(gn.rms_norm(x, w, 0.0)))


def test_zero_rows_and_eps(impl):
    x, w = mx.zeros((2, 5)), mx.ones((5,))
    dx, dw = vjp(lambda x, w: gn.rms_norm(x, w, 0.25), [x, w], [mx.ones((2, 5))])
    assert mx.array_equal(gn.rms_norm(x, w, 0.25), x)
    assert_close(dx, np.full((2, 5), 2.0))
    assert mx.array_equal(dw, mx.zeros((5,)))


def test_strided_and_broadcast_inputs(impl):
    x = mx.random.normal((2, 20, 40)).transpose(0, 2, 1)[:, ::2, 1:]
    w = mx.broadcast_to(mx.array(1.5), (19,))
    assert_close(gn.rms_norm(x, w), rms_norm_ref(np.array(x), np.array(w)))


def test_half_precision_sum_would_fail():
    (x, xr), (_, wr), _ = operands((64, 256), "bfloat16")
    power = mx.zeros((64, 1), dtype=mx.bfloat16)
    for d in range(256):
        power = power + x[:, d : d + 1] * x[:, d : d + 1]
    y = x.astype(mx.float32) * mx.rsqrt(power.astype(mx.float32) / 256 + 1e-5) * mx.array(wr, dtype=mx.float32)
    assert nrmse(y, rms_norm_ref(xr, wr)) > NRMSE["bfloat16"]


def test_gradient_without_projection_would_fail():
    (_, x), (_, w), (_, dy) = operands((40, 33))
    scale = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    assert nrmse(dy * w * scale, rms_norm_vjp_ref(x, w, dy)[0]) > 1000 * NRMSE["float32"]


def test_same_bits_for_any_thread_count():
    (x, _), (w, _), (dy, _) = operands((300, 70))
    results, before = [], gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        results.append([gn.rms_norm(x, w), *vjp(gn.rms_norm, [x, w], [dy])])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    assert all(mx.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_transforms():
    (x, xr), (w, wr), (dy, _) = operands((3, 4, 9))
    y = gn.rms_norm(x, w)
    assert mx.array_equal(mx.compile(gn.rms_norm)(x, w), y)
    shapeless = mx.compile(gn.rms_norm, shapeless=True)
    assert mx.array_equal(shapeless(x, w), y) and mx.array_equal(shapeless(x[1:, :2], w), y[1:, :2])
    assert_close(mx.vmap(gn.rms_norm, in_axes=(0, None))(x, w), rms_norm_ref(xr, wr))
    _, (dot,) = mx.jvp(lambda x: gn.rms_norm(x, w), [x], [dy])
    step = 1e-6
    numeric = (rms_norm_ref(xr + step * np.array(dy), wr) - rms_norm_ref(xr - step * np.array(dy), wr)) / (2 * step)
    assert_close(dot, numeric)
    second = mx.grad(lambda x: mx.grad(lambda x: gn.rms_norm(x, w).square().sum())(x).sum())(x)
    assert second.shape == x.shape and bool(mx.isfinite(second).all())
    assert mx.array_equal(gn.rms_norm(x, w, stream=mx.new_stream(mx.cpu)), y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((mx.zeros((2, 3)), mx.zeros((2,))), r"\[rms_norm\] weight has the wrong shape, given \(2,\), allowed: \(dim"),
        ((mx.zeros((2, 3)), mx.zeros((3, 1))), r"weight has the wrong shape, given \(3, 1\)"),
        ((mx.zeros(()), mx.zeros((1,))), r"x has the wrong shape, given \(\), allowed: \(\.\.\., dim\)"),
        ((mx.zeros((2, 3), dtype=mx.int8), mx.zeros((3,))), r"x has the wrong dtype, given int8"),
        ((mx.zeros((2, 3)), mx.zeros((3,), dtype=mx.int32)), r"weight has the wrong dtype, given int32"),
        ((mx.zeros((2, 3)), mx.zeros((3,)), -1.0), r"eps is negative, given -1, allowed: 0 or more"),
    ],
)  # fmt: skip
def test_malformed_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        gn.rms_norm(*arguments)


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (mx.zeros((3, 2)), r"\[add_rms_norm\] residual has the wrong shape, given \(3, 2\), allowed: that of x"),
        (
            mx.zeros((2, 3), dtype=mx.float16),
            r"residual has the wrong dtype, given float16, allowed: that of x, float32",
        ),
    ],
)
def test_malformed_residual(residual, message):
    with pytest.raises(ValueError, match=message):
        gn.add_rms_norm(mx.zeros((2, 3)), residual, mx.zeros((3,)))
