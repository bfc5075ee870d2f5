from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference.causal_conv1d import causal_conv1d_ref, causal_conv1d_vjp_ref
from tests.operators import DTYPES, central_differences, rounded, vjp
from tests.tolerances import NRMSE, assert_close, nrmse


def operands(batch, seqlen, dim, width, dtype="float32", total=None, seed=0):
    """x, weight, bias, state, dy, dlast as (mlx, float64) pairs. weight and bias stay float32, as in a model."""
    r = np.random.default_rng(seed)
    rows = (total, dim) if total is not None else (batch, seqlen, dim)
    state = (batch, width - 1, dim)
    shapes = [rows, (dim, width), (dim,), state, rows, state]
    kinds = [dtype, "float32", "float32", dtype, dtype, dtype]
    return [rounded(r.standard_normal(s), k) for s, k in zip(shapes, kinds, strict=True)]


def check(pairs, dtype, activation=None, cu_seqlens=None, has_state=True):
    (x, xr), (w, wr), (b, br), (s, sr), (dy, dyr), (dl, dlr) = pairs
    options = {"activation": activation, "cu_seqlens": cu_seqlens}
    cu = None if cu_seqlens is None else mx.array(cu_seqlens, dtype=mx.int32)

    def fn(x, w, b, *state):
        return gn.causal_conv1d(
            x, w, b, activation=activation, initial_state=state[0] if state else None, cu_seqlens=cu,
            return_last_state=True,
        )  # fmt: skip

    primals = [x, w, b, s] if has_state else [x, w, b]
    y, last = fn(*primals)
    assert y.dtype == x.dtype and last.dtype == x.dtype
    state_ref = sr if has_state else None
    y_ref, last_ref = causal_conv1d_ref(xr, wr, br, initial_state=state_ref, **options)
    assert_close(y, y_ref, dtype, "y")
    assert_close(last, last_ref, dtype, "last_state")
    expected = causal_conv1d_vjp_ref(xr, wr, br, dyr, dlr, initial_state=state_ref, **options)
    for name, got, want in zip(
        ["dx", "dweight", "dbias", "dstate"], vjp(fn, primals, [dy, dl]), expected, strict=False
    ):
        assert_close(got, want, dtype, name)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("cu_seqlens", [None, [0, 3, 3, 7]])
def test_reference_vjp_matches_central_differences(activation, cu_seqlens):
    batch, total = (2, None) if cu_seqlens is None else (3, 7)
    (_, x), (_, w), (_, b), (_, s), (_, dy), (_, dl) = operands(batch, 5, 3, 3, total=total)

    def forward(values):
        x, w, b, s = values
        return causal_conv1d_ref(x, w, b, activation=activation, initial_state=s, cu_seqlens=cu_seqlens)

    numeric = central_differences(forward, [x, w, b, s], [dy, dl])
    exact = causal_conv1d_vjp_ref(x, w, b, dy, dl, activation=activation, initial_state=s, cu_seqlens=cu_seqlens)
    for got, want in zip(numeric, exact, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize(("batch", "seqlen", "dim"), [(2, 5, 33), (3, 131, 31), (1, 1, 32), (2, 300, 7)])
def test_matches_reference(impl, dtype, activation, width, batch, seqlen, dim):
    check(operands(batch, seqlen, dim, width, dtype), dtype, activation)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set(isa, dtype):
    check(operands(2, 37, 45, 4, dtype), dtype, "silu")
    check(operands(2, 2, 3, 3, dtype), dtype, None)


@pytest.mark.parametrize(
    "cu_seqlens", [[0, 4, 4, 5, 140], [0, 0], [0, 140], [2, 9, 130], list(range(0, 141, 2)), [5] * 40 + [80, 80, 140]]
)
@pytest.mark.parametrize("activation", [None, "silu"])
def test_ragged(impl, cu_seqlens, activation):
    pairs = operands(len(cu_seqlens) - 1, None, 19, 4, total=140)
    check(pairs, "float32", activation, cu_seqlens)
    check(pairs, "float32", activation, cu_seqlens, has_state=False)


@pytest.mark.parametrize(("batch", "seqlen", "dim"), [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_empty(impl, batch, seqlen, dim):
    check(operands(batch, seqlen, dim, 3), "float32", "silu")


def test_no_state_is_zero_state(impl):
    check(operands(3, 9, 17, 4), "float32", "silu", has_state=False)


def test_strided_and_broadcast_inputs(impl):
    r = np.random.default_rng(1)
    x = mx.array(r.standard_normal((2, 20, 40)), dtype=mx.float32).transpose(0, 2, 1)[:, ::2, 1:]
    w = mx.broadcast_to(mx.array(r.standard_normal((1, 4)), dtype=mx.float32), (19, 4))
    y_ref, _ = causal_conv1d_ref(np.array(x), np.array(w))
    assert_close(gn.causal_conv1d(x, w), y_ref)


@pytest.mark.parametrize("dtype", DTYPES)
def test_operands_may_begin_anywhere(impl, dtype):
    """A slice that is contiguous and does not begin where a vector load may."""
    pairs = operands(2, 21, 16, 4, dtype)
    shifted = [(mx.concatenate([x.flatten()[:1], x.flatten()])[1:].reshape(x.shape), ref) for x, ref in pairs]
    check(shifted, dtype, "silu")


def test_half_precision_sum_would_fail():
    """A kernel that sums in bfloat16 is outside the tolerance."""
    (_, x), (_, w), (_, b), *_ = operands(2, 64, 33, 4, "bfloat16")
    extended = np.pad(x, [(0, 0), (3, 0), (0, 0)])
    total = mx.array(np.broadcast_to(b, x.shape), dtype=mx.bfloat16)
    for k in range(4):
        total = total + mx.array(extended[:, k : k + 64] * w[:, k], dtype=mx.bfloat16)
    assert nrmse(total, causal_conv1d_ref(x, w, b)[0]) > NRMSE["bfloat16"]


def test_dropped_state_would_fail():
    (x, xr), (w, wr), (b, br), (_, sr), *_ = operands(2, 16, 8, 4)
    assert nrmse(gn.causal_conv1d(x, w, b), causal_conv1d_ref(xr, wr, br, initial_state=sr)[0]) > 100 * NRMSE["float32"]


@given(
    seqlen=st.integers(0, 40), cut=st.integers(0, 40), dim=st.integers(1, 20), width=st.integers(2, 4),
    silu=st.booleans(),
)  # fmt: skip
def test_split_equals_whole(seqlen, cut, dim, width, silu):
    cut = min(cut, seqlen)
    (x, _), (w, _), (b, _), (s, _), *_ = operands(2, seqlen, dim, width, seed=seqlen)
    options = {"activation": "silu" if silu else None, "return_last_state": True}
    y, last = gn.causal_conv1d(x, w, b, initial_state=s, **options)
    y0, middle = gn.causal_conv1d(x[:, :cut], w, b, initial_state=s, **options)
    y1, end = gn.causal_conv1d(x[:, cut:], w, b, initial_state=middle, **options)
    assert mx.array_equal(y, mx.concatenate([y0, y1], axis=1))
    assert mx.array_equal(last, end)


def test_update_equals_whole():
    (x, _), (w, _), (b, _), (s, _), *_ = operands(3, 9, 21, 4)
    y, last = gn.causal_conv1d(x, w, b, activation="silu", initial_state=s, return_last_state=True)
    for t in range(9):
        yt, s = gn.causal_conv1d_update(x[:, t], s, w, b, activation="silu")
        assert mx.array_equal(yt, y[:, t])
    assert mx.array_equal(s, last)


def test_causal():
    (x, _), (w, _), *_ = operands(1, 30, 5, 4)
    changed = x.at[:, 11].add(1.0)
    before, after = gn.causal_conv1d(x, w), gn.causal_conv1d(changed, w)
    assert mx.array_equal(before[:, :11], after[:, :11])
    assert not mx.array_equal(before[:, 11], after[:, 11])


def test_same_bits_for_any_thread_count():
    (x, _), (w, _), (b, _), (s, _), (dy, _), (dl, _) = operands(3, 400, 37, 4)
    results = []
    before = gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        results.append(vjp(lambda *a: gn.causal_conv1d(*a[:3], activation="silu", initial_state=a[3],
                                                       return_last_state=True), [x, w, b, s], [dy, dl]))  # fmt: skip
        mx.eval(results[-1])
    gn.set_num_threads(before)
    for other in results[1:]:
        assert all(mx.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_transforms():
    (x, _), (w, _), (b, _), *_ = operands(2, 12, 9, 4)

    def fn(x, w, b):
        return gn.causal_conv1d(x, w, b, activation="silu")

    y = fn(x, w, b)
    assert mx.array_equal(mx.compile(fn)(x, w, b), y)
    shapeless = mx.compile(fn, shapeless=True)
    assert mx.array_equal(shapeless(x, w, b), y)
    longer = mx.concatenate([x, x], axis=0)[:, 1:]
    assert mx.array_equal(shapeless(longer, w, b), fn(longer, w, b))

    stacked = mx.stack([x, 2 * x, x + 1])
    mapped = mx.vmap(fn, in_axes=(0, None, None))(stacked, w, b)
    assert_close(mapped, np.stack([np.array(fn(v, w, b)) for v in stacked]))

    tangent = mx.ones_like(x)
    _, (dot,) = mx.jvp(lambda x: fn(x, w, b), [x], [tangent])
    step = 1e-3
    numeric = (np.array(fn(x + step * tangent, w, b)) - np.array(fn(x - step * tangent, w, b))) / (2 * step)
    np.testing.assert_allclose(np.array(dot), numeric, atol=2e-3)

    # Gradient of a gradient goes through the composed form.
    second = mx.grad(lambda x: (mx.grad(lambda x: fn(x, w, b).square().sum())(x)).sum())(x)
    assert second.shape == x.shape and bool(mx.isfinite(second).all())


def test_any_stream():
    (x, _), (w, _), *_ = operands(2, 12, 9, 4)
    stream = mx.new_stream(mx.cpu)
    y = gn.causal_conv1d(x, w, stream=stream)
    mx.eval(y)
    assert mx.array_equal(y, gn.causal_conv1d(x, w))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": mx.zeros((2, 5))}, r"\[causal_conv1d\] x has the wrong shape, given \(2, 5\), allowed: .*\(batch"),
        ({"x": mx.zeros((2, 5, 3), dtype=mx.int32)}, r"\[causal_conv1d\] x has the wrong dtype, given int32"),
        ({"weight": mx.zeros((4, 5))}, r"weight has the wrong shape, given \(4, 5\), allowed: \(dim, width\)"),
        ({"weight": mx.zeros((3, 3))}, r"x has the wrong shape, given \(2, 5, 4\)"),
        ({"bias": mx.zeros((3,))}, r"bias has the wrong shape, given \(3,\), allowed: \(dim,\) = \(4,\)"),
        ({"initial_state": mx.zeros((2, 3, 4))}, r"initial_state has the wrong shape, given \(2, 3, 4\)"),
        ({"activation": "gelu"}, r"unknown activation, given 'gelu', allowed: None, 'silu'"),
        ({"cu_seqlens": mx.array([0, 2])}, r"x has the wrong shape, given \(2, 5, 4\), allowed: \(total, dim\)"),
        ({"cu_seqlens": mx.array([0.0, 2.0])}, r"cu_seqlens has the wrong dtype, given float32, allowed: int32"),
    ],
)  # fmt: skip
def test_malformed_input(changes, message):
    arguments = {"x": mx.zeros((2, 5, 4)), "weight": mx.zeros((4, 3)), **changes}
    with pytest.raises(ValueError, match=message):
        gn.causal_conv1d(arguments.pop("x"), arguments.pop("weight"), **arguments)


def test_malformed_update():
    with pytest.raises(ValueError, match=r"\[causal_conv1d_update\] x has the wrong shape, given \(4,\)"):
        gn.causal_conv1d_update(mx.zeros((4,)), mx.zeros((1, 2, 4)), mx.zeros((4, 3)))


@given(st.lists(st.integers(-5, 50), min_size=1, max_size=6))
def test_malformed_boundaries_never_crash(cu_seqlens):
    x, w = mx.ones((20, 3)), mx.ones((3, 4))
    y, last = gn.causal_conv1d(x, w, cu_seqlens=mx.array(cu_seqlens, dtype=mx.int32), return_last_state=True)
    mx.eval(y, last)
    assert y.shape == (20, 3) and last.shape == (len(cu_seqlens) - 1, 3, 3)
