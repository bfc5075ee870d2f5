from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference import fact_recurrence as ref
from tests.operators import DTYPES, central_differences, rounded, vjp
from tests.tolerances import NRMSE, assert_close, nrmse


def sum_operands(batch, seqlen, dim, dtype="float32", seed=0):
    r = np.random.default_rng(seed)
    x, initial = r.standard_normal((batch, seqlen, dim)), r.standard_normal((batch, dim))
    keep, dy = -r.exponential(0.2, (batch, seqlen)), r.standard_normal((batch, seqlen, dim))
    return [rounded(v, dtype) for v in (x, keep, initial)], rounded(dy, "float32")


def check_sum(batch, seqlen, dim, seed=0):
    pairs, (dy, dyr) = sum_operands(batch, seqlen, dim, seed=seed)
    given_, exact = zip(*pairs, strict=True)
    y = gn.decayed_sum(*given_)
    assert y.dtype == mx.float32
    assert_close(y, ref.decayed_sum_ref(*exact))
    for d, expected in zip(vjp(gn.decayed_sum, given_, [dy]), ref.decayed_sum_vjp_ref(*exact, dyr), strict=True):
        assert_close(d, expected)


def check_began(batch, past, length, width, seed=0):
    r = np.random.default_rng(seed)
    logit, exact = rounded(3 * r.standard_normal((batch, past + length)), "float32")
    dy, dyr = rounded(r.standard_normal((batch, length, width)), "float32")

    def fn(logit):
        return gn.began_ago(logit, length, width)

    assert_close(fn(logit), ref.began_ago_ref(exact, length, width))
    assert_close(vjp(fn, [logit], [dy])[0], ref.began_ago_vjp_ref(exact, dyr))


def event_operands(batch, seqlen, slots, dtype="float32", seed=0):
    r = np.random.default_rng(seed)
    row = np.where(r.random((batch, seqlen)) < 0.3, r.integers(1, 9, (batch, seqlen)), 0)
    state_row = r.integers(0, 5, (batch, slots))
    floats = [-r.exponential(0.5, (batch, seqlen)), -r.exponential(0.1, (batch, seqlen))]
    floats += [-r.exponential(1.0, (batch, slots)), r.integers(0, 9, (batch, slots)).astype(np.float64)]
    return row, state_row, [rounded(v, dtype) for v in floats]


def check_events(batch, seqlen, slots, seed=0):
    row, state_row, pairs = event_operands(batch, seqlen, slots, seed=seed)
    r = np.random.default_rng(seed + 1)
    (dlog, dlog_r), (dage, dage_r) = (rounded(r.standard_normal((batch, seqlen, slots)), "float32") for _ in range(2))
    given_, exact = zip(*pairs, strict=True)

    def fn(*v):
        return gn.last_events(mx.array(row), v[0], v[1], mx.array(state_row), v[2], v[3])

    out = fn(*given_)
    expected = ref.last_events_ref(row, exact[0], exact[1], state_row, exact[2], exact[3])
    assert np.array_equal(np.array(out[0]), expected[0])
    assert_close(out[1], expected[1])
    assert_close(out[2], expected[2])
    grads = vjp(lambda *v: fn(*v)[1:], given_, [dlog, dage])
    for d, want in zip(grads, ref.last_events_vjp_ref(row, dlog_r, dage_r), strict=True):
        assert_close(d, want)


def test_reference_vjps_match_central_differences():
    pairs, (_, dy) = sum_operands(2, 5, 3)
    exact = [e for _, e in pairs]
    numeric = central_differences(lambda v: [ref.decayed_sum_ref(*v)], exact, [dy])
    for a, b in zip(numeric, ref.decayed_sum_vjp_ref(*exact, dy), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    r = np.random.default_rng(0)
    logit, dy = r.standard_normal((2, 9)), r.standard_normal((2, 4, 5))
    (numeric,) = central_differences(lambda v: [ref.began_ago_ref(v[0], 4, 5)], [logit], [dy])
    np.testing.assert_allclose(numeric, ref.began_ago_vjp_ref(logit, dy), rtol=1e-6, atol=1e-8)
    row, state_row, pairs = event_operands(2, 7, 3)
    exact, d = [e for _, e in pairs], [r.standard_normal((2, 7, 3)) for _ in range(2)]
    numeric = central_differences(lambda v: ref.last_events_ref(row, v[0], v[1], state_row, v[2], v[3])[1:], exact, d)
    for a, b in zip(numeric, ref.last_events_vjp_ref(row, *d), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("seqlen", "width"), [(1, 9), (31, 16), (67, 33)])
def test_matches_reference(impl, seqlen, width):
    check_sum(2, seqlen, width)
    check_began(2, width + 2, seqlen, width)
    check_events(3, seqlen, 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_as_float32(impl, dtype):
    sums = [p[0] for p in sum_operands(2, 40, 5, dtype)[0]]
    row, state_row, pairs = event_operands(2, 9, 3, dtype)

    def events(weight, keep, log, age):
        return gn.last_events(mx.array(row), weight, keep, mx.array(state_row), log, age)[1:]

    calls = [(gn.decayed_sum, sums), (lambda v: gn.began_ago(v, 20, 9), sums[1:2]), (events, [p[0] for p in pairs])]
    for fn, half in calls:
        wide = [v.astype(mx.float32) for v in half]
        out, expected = ([y] if isinstance(y, mx.array) else list(y) for y in (fn(*half), fn(*wide)))
        for a, b in zip(out, expected, strict=True):
            assert a.dtype == mx.float32 and mx.array_equal(a, b)
        for a, b in zip(vjp(fn, half, out), vjp(fn, wide, out), strict=True):
            assert a.dtype == DTYPES[dtype] and mx.array_equal(a, b.astype(a.dtype))


def test_every_instruction_set(isa):
    for n in (3, 16, 45):
        check_sum(2, 9, n)
        check_began(2, n, 7, n)


@pytest.mark.parametrize(("batch", "seqlen"), [(0, 3), (2, 0)])
def test_empty(impl, batch, seqlen):
    check_sum(batch, seqlen, 5)
    check_began(batch, 4, seqlen, 3)
    check_events(batch, seqlen, 2)


@given(batch=st.integers(1, 3), seqlen=st.integers(4, 70), width=st.integers(4, 40))
def test_any_shape(batch, seqlen, width):
    check_sum(batch, seqlen, width, seed=seqlen)
    check_began(batch, width - 1, seqlen, width, seed=seqlen)
    check_events(batch, seqlen, 1 + width % 6, seed=seqlen)


def test_pieces_continue_the_sum():
    x, keep, initial = (p[0] for p in sum_operands(2, 50, 7)[0])
    whole = gn.decayed_sum(x, keep, initial)
    first = gn.decayed_sum(x[:, :20], keep[:, :20], initial)
    assert mx.array_equal(gn.decayed_sum(x[:, 20:], keep[:, 20:], first[:, -1]), whole[:, 20:])


def test_a_forgotten_gate_would_fail():
    pairs, _ = sum_operands(2, 40, 7)
    (x, xr), (_, keep), (initial, initial_r) = pairs
    ungated = gn.decayed_sum(x, mx.zeros((2, 40)), initial)
    assert nrmse(ungated, ref.decayed_sum_ref(xr, keep, initial_r)) > NRMSE["bfloat16"]


def test_extreme_logits(impl):
    logit = mx.array([[-1e4, -90.0, 0.0, 90.0, 1e4]])
    out, d = gn.began_ago(logit, 5, 1), vjp(lambda v: gn.began_ago(v, 5, 1), [logit], [mx.ones((1, 5, 1))])[0]
    np.testing.assert_allclose(np.array(out)[0, :, 0], [-1e4, -90, -np.log(2), 0, 0], rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(np.array(d)[0], [1, 1, 0.5, 0, 0], rtol=1e-6, atol=1e-30)


def test_same_bits_for_any_thread_count():
    pairs, (dy, _) = sum_operands(5, 90, 33)
    given_ = [p[0] for p in pairs]
    results, before = [], gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        results.append([gn.decayed_sum(*given_), *vjp(gn.decayed_sum, given_, [dy]), gn.began_ago(given_[1], 40, 20)])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    assert all(mx.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_transforms():
    pairs, _ = sum_operands(2, 40, 7)
    x, keep, initial = (p[0] for p in pairs)
    y = gn.decayed_sum(x, keep, initial)
    assert mx.array_equal(mx.compile(gn.decayed_sum, shapeless=True)(x, keep, initial), y)
    stacked = [mx.stack([v, v]) for v in (x, keep, initial)]
    assert_close(mx.vmap(gn.decayed_sum)(*stacked)[1], np.array(y))
    _, (dot,) = mx.jvp(lambda x: gn.decayed_sum(x, keep, mx.zeros_like(initial)), [x], [x])
    assert_close(dot, np.array(gn.decayed_sum(x, keep, mx.zeros_like(initial))))

    def twice(keep):
        return mx.grad(lambda k: (gn.decayed_sum(x, k, initial) ** 2).sum())(keep).sum()

    second = mx.grad(twice)(keep)
    with gn.composed_form():
        assert_close(second, np.array(mx.grad(twice)(keep)), "float16")
    logit = keep * 5
    slope = mx.grad(lambda v: mx.grad(lambda v: gn.began_ago(v, 9, 5)[:, :, 1].sum())(v).sum())(logit)
    assert slope.shape == logit.shape and bool(mx.isfinite(slope).all())
    assert mx.array_equal(gn.decayed_sum(x, keep, initial, stream=mx.new_stream(mx.cpu)), y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: gn.decayed_sum(z((2, 3)), z((2, 3)), z((2, 3))), r"\[decayed_sum\] x has the wrong shape"),
        (lambda z: gn.decayed_sum(z((2, 3, 4)), z((2, 4)), z((2, 4))), r"log_keep has the wrong shape, given \(2, 4\)"),
        (lambda z: gn.began_ago(z((2, 9)), 5, 6), r"\[began_ago\] length or width is out of range, given 5 and 6"),
        (
            lambda z: gn.last_events(z((2, 3)), z((2, 3)), z((2, 3)), z((2, 4)), z((2, 4)), z((2, 4))),
            r"\[last_events\] rows have the wrong dtype, given float32, allowed: integers",
        ),
    ],
)
def test_malformed_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(mx.zeros)
