from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference.embedding import embedding_ref, embedding_vjp_ref
from tests.operators import DTYPES, central_differences, rounded, vjp
from tests.tolerances import NRMSE, assert_close, nrmse, to_numpy


def operands(vocab, dim, rows, dtype="float32", seed=0):
    """weight and dy as (mlx, float64) pairs, and tokens of which some are outside the table."""
    r = np.random.default_rng(seed)
    tokens = r.integers(-1, vocab + 1, rows)
    return rounded(r.standard_normal((vocab, dim)), dtype), rounded(r.standard_normal((*rows, dim)), dtype), tokens


def check(vocab, dim, rows, dtype="float32", seed=0):
    (w, wr), (dy, dyr), tokens = operands(vocab, dim, rows, dtype, seed)
    t = mx.array(tokens)
    y = gn.embedding(w, t)
    assert y.dtype == w.dtype and y.shape == (*rows, dim)
    assert np.array_equal(to_numpy(y), embedding_ref(wr, tokens))
    (dw,) = vjp(lambda w: gn.embedding(w, t), [w], [dy])
    assert dw.dtype == w.dtype
    assert_close(dw, embedding_vjp_ref(wr, tokens, dyr), dtype, "dweight")


def test_reference_vjp_matches_central_differences():
    (_, w), (_, dy), tokens = operands(4, 3, (2, 5))
    (numeric,) = central_differences(lambda v: [embedding_ref(v[0], tokens)], [w], [dy])
    np.testing.assert_allclose(numeric, embedding_vjp_ref(w, tokens, dy), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vocab", "dim", "rows"), [(7, 33, (2, 5)), (256, 31, (3, 131)), (5, 300, (600,))])
def test_matches_reference(impl, dtype, vocab, dim, rows):
    check(vocab, dim, rows, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set(isa, dtype):
    for dim in (3, 16, 45, 255):
        check(5, dim, (70,), dtype)


@pytest.mark.parametrize(
    ("vocab", "dim", "rows"), [(3, 4, (0,)), (3, 4, ()), (3, 0, (5,)), (0, 4, (5,)), (4, 3, (2, 0))]
)
def test_empty(impl, vocab, dim, rows):
    check(vocab, dim, rows)


# At least 16 gradients: a single sum of random terms may cancel to nearly nothing, against which any rounding is large.
@given(vocab=st.integers(1, 20), dim=st.integers(16, 40), rows=st.integers(0, 90))
def test_any_shape(vocab, dim, rows):
    check(vocab, dim, (rows,), seed=rows)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20))
def test_tokens_outside_stay_inside(tokens):
    w = mx.random.normal((5, 3))
    t = mx.array(np.array(tokens, np.int32))
    assert np.array_equal(np.array(gn.embedding(w, t)), embedding_ref(np.array(w), np.array(t)))
    (dw,) = vjp(lambda w: gn.embedding(w, t), [w], [mx.ones((len(tokens), 3))])
    assert_close(dw, embedding_vjp_ref(np.array(w), np.array(t), np.ones((len(tokens), 3))))


@pytest.mark.parametrize("kind", [mx.uint8, mx.int16, mx.uint32, mx.int64])
def test_token_dtypes(kind):
    (w, wr), _, _ = operands(256, 9, (1,))
    tokens = np.arange(40) * 3
    assert np.array_equal(np.array(gn.embedding(w, mx.array(tokens).astype(kind))), embedding_ref(wr, tokens))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_frequent_token(dtype):
    """A sum of thousands of rows stays within the tolerance of a short one."""
    r = np.random.default_rng(0)
    w, wr = rounded(r.standard_normal((3, 5)), dtype)
    dy, dyr = rounded(r.standard_normal((20000, 5)) + 1, dtype)
    t = mx.ones((20000,), dtype=mx.int32)
    (dw,) = vjp(lambda w: gn.embedding(w, t), [w], [dy])
    assert_close(dw, embedding_vjp_ref(wr, np.ones(20000), dyr), dtype)


def test_half_precision_sum_would_fail():
    (_, wr), (_, dyr), _ = operands(3, 5, (300,), "bfloat16")
    tokens = np.arange(300) % 3
    total = mx.zeros((3, 5), dtype=mx.bfloat16)
    for i in range(0, 300, 3):
        total = total + mx.array(dyr[i : i + 3], dtype=mx.bfloat16)
    assert nrmse(total, embedding_vjp_ref(wr, tokens, dyr)) > NRMSE["bfloat16"]


def test_strided_and_broadcast_inputs(impl):
    w = mx.random.normal((40, 22)).T[::2, 1:]
    t = mx.broadcast_to(mx.array([3]), (2, 20))
    assert np.array_equal(np.array(gn.embedding(w, t)), embedding_ref(np.array(w), np.array(t)))


def test_same_bits_for_any_thread_count():
    (w, _), (dy, _), tokens = operands(50, 70, (900,))
    t, results, before = mx.array(tokens), [], gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        results.append([gn.embedding(w, t), *vjp(lambda w: gn.embedding(w, t), [w], [dy])])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    assert all(mx.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_transforms():
    (w, wr), _, tokens = operands(7, 9, (3, 4))
    t = mx.array(tokens)
    y = gn.embedding(w, t)
    assert mx.array_equal(mx.compile(gn.embedding)(w, t), y)
    shapeless = mx.compile(gn.embedding, shapeless=True)
    assert mx.array_equal(shapeless(w, t), y) and mx.array_equal(shapeless(w, t[1:, :2]), y[1:, :2])
    assert mx.array_equal(mx.vmap(gn.embedding, in_axes=(None, 0))(w, t), y)
    tables = mx.stack([w, 2 * w, w + 1])
    assert mx.array_equal(mx.vmap(gn.embedding)(tables, t), mx.stack([gn.embedding(tables[i], t[i]) for i in range(3)]))
    _, (dot,) = mx.jvp(lambda w: gn.embedding(w, t), [w], [w])
    assert mx.array_equal(dot, y)
    second = mx.grad(lambda w: (mx.grad(lambda w: (gn.embedding(w, t) ** 3).sum())(w)).sum())(w)
    assert_close(second, embedding_vjp_ref(wr, tokens, 6 * embedding_ref(wr, tokens)))
    assert mx.array_equal(gn.embedding(w, t, stream=mx.new_stream(mx.cpu)), y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((mx.zeros((2,)), mx.array([1])), r"\[embedding\] weight has the wrong shape, given \(2,\), allowed: \(vocab"),
        ((mx.zeros((2, 3)), mx.array([1.0])), r"tokens have the wrong dtype, given float32, allowed: integers"),
        ((mx.zeros((2, 3), dtype=mx.int8), mx.array([1])), r"weight has the wrong dtype, given int8"),
    ],
)  # fmt: skip
def test_malformed_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        gn.embedding(*arguments)
