from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference.tanh import tanh_ref, tanh_vjp_ref
from tests.operators import DTYPES, central_differences, rounded, vjp
from tests.tolerances import NRMSE, assert_close, nrmse


def check(shape, dtype="float32", scale=2.0):
    r = np.random.default_rng(0)
    (x, xr), (dy, dyr) = (rounded(scale * r.standard_normal(shape), dtype) for _ in range(2))
    y = gn.tanh(x)
    assert y.dtype == x.dtype
    assert_close(y, tanh_ref(xr), dtype, "y")
    assert_close(vjp(gn.tanh, [x], [dy])[0], tanh_vjp_ref(xr, dyr), dtype, "dx")


def test_reference_vjp_matches_central_differences():
    r = np.random.default_rng(0)
    x, dy = r.standard_normal(20), r.standard_normal(20)
    (numeric,) = central_differences(lambda v: [tanh_ref(v[0])], [x], [dy])
    np.testing.assert_allclose(numeric, tanh_vjp_ref(x, dy), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 5, 33), (3, 20000), (1, 997)])
def test_matches_reference(impl, dtype, shape):
    check(shape, dtype)


@pytest.mark.parametrize("shape", [(31,), (), (1, 1), (0, 4), (4, 0)])
def test_small_shapes(impl, shape):
    check(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set(isa, dtype):
    for n in (3, 16, 45, 255):
        check((n,))
        check((37, n), dtype)


def test_relative_error_where_it_is_small(impl):
    x = np.concatenate([[0.0, 1e-30, -1e-7], np.linspace(-0.7, 0.7, 1001), [-20.0, 20.0]]).astype(np.float32)
    np.testing.assert_allclose(np.array(gn.tanh(mx.array(x))), tanh_ref(x), rtol=5e-7)


def test_extremes(impl):
    x = mx.array([-float("inf"), -3e38, -100.0, 100.0, 3e38, float("inf")])
    y, dx = gn.tanh(x), vjp(gn.tanh, [x], [mx.ones_like(x)])[0]
    assert np.array_equal(np.array(y), [-1, -1, -1, 1, 1, 1]) and not np.array(dx).any()
    assert np.isnan(np.array(gn.tanh(mx.array([float("nan")] * 17)))).all()


@given(st.lists(st.integers(0, 5), max_size=4))
def test_any_shape(shape):
    check(tuple(shape))


def test_strided_and_broadcast_inputs(impl):
    x = mx.random.normal((2, 20, 40)).transpose(0, 2, 1)[:, ::2, 1:]
    assert_close(gn.tanh(x), tanh_ref(np.array(x)))
    x = mx.broadcast_to(mx.random.normal((1, 7)), (5, 7))
    assert_close(gn.tanh(x), tanh_ref(np.array(x)))


def test_another_function_would_fail():
    x, xr = rounded(np.random.default_rng(0).standard_normal((64, 33)), "bfloat16")
    assert nrmse(x - x * x * x / 3, tanh_ref(xr)) > NRMSE["bfloat16"]


def test_reusing_memory_never_changes_what_others_hold():
    x = mx.random.normal((100, 33)) * 2
    mx.eval(x)
    kept = np.array(x)
    mx.eval(gn.tanh(x), gn.tanh(x + 0))
    assert np.array_equal(np.array(x), kept)


def test_same_bits_for_any_thread_count():
    x, before = mx.random.normal((300, 257)), gn.num_threads()
    results = []
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        results.append([gn.tanh(x), *vjp(gn.tanh, [x], [x])])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    assert all(mx.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_transforms():
    x = mx.random.normal((3, 4, 9))
    y = gn.tanh(x)
    assert mx.array_equal(mx.compile(gn.tanh)(x), y)
    shapeless = mx.compile(gn.tanh, shapeless=True)
    assert mx.array_equal(shapeless(x), y) and mx.array_equal(shapeless(x[1:, :2]), y[1:, :2])
    assert_close(mx.vmap(gn.tanh)(x), np.array(y))
    _, (dot,) = mx.jvp(gn.tanh, [x], [mx.ones_like(x)])
    assert_close(dot, tanh_vjp_ref(np.array(x), np.ones(x.shape)))
    second = mx.grad(lambda x: mx.grad(lambda x: gn.tanh(x).sum())(x).sum())(x)
    step = 1e-5
    above, below = (tanh_vjp_ref(np.array(x, np.float64) + s, np.ones(x.shape)) for s in (step, -step))
    np.testing.assert_allclose(np.array(second), (above - below) / (2 * step), atol=1e-5)
    assert mx.array_equal(gn.tanh(x, stream=mx.new_stream(mx.cpu)), y)


def test_malformed_input():
    with pytest.raises(ValueError, match=r"\[tanh\] x has the wrong dtype, given int32, allowed: float32"):
        gn.tanh(mx.zeros((3,), dtype=mx.int32))
