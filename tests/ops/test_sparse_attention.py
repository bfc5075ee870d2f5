from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.reference.sparse_attention import sparse_attention_ref, sparse_attention_vjp_ref
from tests.operators import DTYPES, central_differences, rounded, vjp
from tests.tolerances import assert_close, to_numpy

NAMES = ("q", "k", "v", "window_k", "window_v", "far_k", "far_v")


def operands(batch, seqlen, heads, width, stride, counts, dtype="float32", seed=0, spare=0):
    """The seven operands as (mlx, float64) pairs, count, and dy; `spare` far rows lie beyond those that count."""
    r = np.random.default_rng(seed)
    dim, far = heads * width, max(counts, default=0) // stride + spare
    shapes = [(batch, seqlen, dim)] * 3 + [(batch, stride, dim)] * 2 + [(batch, far, dim)] * 2
    pairs = [rounded(r.standard_normal(s), dtype) for s in shapes]
    return pairs, np.array(counts, np.int32), rounded(r.standard_normal(shapes[0]), dtype)


def check(batch, seqlen, heads, width, stride, counts, dtype="float32", seed=0, spare=0, together=False):
    pairs, count, (dy, dyr) = operands(batch, seqlen, heads, width, stride, counts, dtype, seed, spare)
    options = {"num_heads": heads, "stride": stride}
    arrays, refs = [a for a, _ in pairs], [r for _, r in pairs]

    def fn(*args):
        return gn.sparse_attention(*args, mx.array(count), **options)

    y = fn(*arrays)
    assert y.shape == arrays[0].shape and y.dtype == DTYPES[dtype]
    assert_close(y, sparse_attention_ref(*refs, count, **options), dtype, "y")
    expected = sparse_attention_vjp_ref(*refs, count, dyr, **options)
    got = vjp(fn, arrays, [dy])
    if together:  # of a few keys some gradients all but cancel
        got, expected = [np.concatenate([to_numpy(x).ravel() for x in xs]) for xs in (got, expected)]
        assert_close(got, expected, dtype, "gradients")
        return
    for name, one, want in zip(NAMES, got, expected, strict=True):
        assert_close(one, want, dtype, f"d{name}")


def test_reference_vjp_matches_central_differences():
    pairs, count, (_, dy) = operands(2, 7, 2, 3, 3, [4, 0])
    refs = [r for _, r in pairs]
    options = {"num_heads": 2, "stride": 3}
    numeric = central_differences(lambda v: [sparse_attention_ref(*v, count, **options)], refs, [dy])
    for got, want in zip(sparse_attention_vjp_ref(*refs, count, dy, **options), numeric, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "seqlen", "heads", "width", "stride", "counts"),
    [
        (2, 40, 2, 8, 5, [0, 0]),
        (3, 33, 1, 31, 7, [0, 3, 29]),
        (1, 300, 2, 33, 16, [50]),
        (2, 131, 3, 17, 32, [1000, 31]),
        (1, 1, 4, 16, 128, [5]),
        (3, 70, 1, 9, 2, [2, 9, 0]),
        (1, 20, 2, 4, 64, [0]),
    ],
)
def test_matches_reference(impl, dtype, batch, seqlen, heads, width, stride, counts):
    check(batch, seqlen, heads, width, stride, counts, dtype)


def test_every_instruction_set(isa):
    check(2, 150, 2, 20, 16, [7, 130])
    check(1, 33, 1, 5, 8, [8], "float16")


@settings(max_examples=40)
@given(
    seqlen=st.integers(0, 90),
    heads=st.integers(1, 3),
    width=st.integers(1, 40),
    stride=st.integers(1, 40),
    counts=st.lists(st.integers(0, 200), min_size=1, max_size=3),
    spare=st.integers(0, 3),
)
def test_any_shape(seqlen, heads, width, stride, counts, spare):
    check(len(counts), seqlen, heads, width, stride, counts, seed=seqlen, spare=spare, together=True)


def test_no_sequences(impl):
    empty, state = mx.zeros((0, 5, 8)), mx.zeros((0, 4, 8))
    y = gn.sparse_attention(*[empty] * 3, *[state] * 2, *[state] * 2, mx.zeros((0,), mx.int32), num_heads=2, stride=4)
    assert y.shape == (0, 5, 8)


@pytest.mark.parametrize("lengths", [[5, 0, 40], [0], [1, 1], [130, 7]])
def test_ragged_equals_separate_sequences(impl, lengths):
    heads, stride, batch, total = 2, 8, len(lengths), sum(lengths)
    counts = [3 * b * stride + b for b in range(batch)]
    pairs, count, _ = operands(batch, 1, heads, 12, stride, counts, seed=total)
    state = [a for a, _ in pairs[3:]]
    mx.random.seed(total)
    q, k, v, dy = (mx.random.normal((total, 24)) for _ in range(4))
    cu = np.cumsum([0, *lengths]).astype(np.int32)

    def ragged(*args):
        return gn.sparse_attention(*args, mx.array(count), num_heads=heads, stride=stride, cu_seqlens=mx.array(cu))

    y, gradients = ragged(q, k, v, *state), vjp(ragged, [q, k, v, *state], [dy])
    for b in range(batch):
        rows = slice(int(cu[b]), int(cu[b + 1]))
        one = [x[None, rows] for x in (q, k, v)] + [x[b : b + 1] for x in state]

        def alone(*args, b=b):
            return gn.sparse_attention(*args, mx.array(count[b : b + 1]), num_heads=heads, stride=stride)

        if lengths[b]:
            assert_close(y[rows], np.array(alone(*one))[0])
        expected = vjp(alone, one, [dy[None, rows]])
        for i, (got, want) in enumerate(zip(gradients, expected, strict=True)):
            assert_close(got[rows] if i < 3 else got[b], np.array(want)[0], what=NAMES[i])


def test_rows_of_no_sequence_are_zero():
    state, rows = mx.zeros((1, 4, 8)), mx.random.normal((10, 8))
    cu = mx.array([3, 7], dtype=mx.int32)

    def fn(q, k, v):
        return gn.sparse_attention(
            q, k, v, state, state, state[:, :0], state[:, :0], mx.array([0]), num_heads=1, stride=4, cu_seqlens=cu
        )

    for x in (fn(rows, rows, rows), *vjp(fn, [rows] * 3, [mx.ones((10, 8))])):
        assert not mx.any(x[:3]) and not mx.any(x[7:]) and bool(mx.isfinite(x).all())


@pytest.mark.parametrize("cut", [1, 13, 39])
def test_causal(impl, cut):
    pairs, count, _ = operands(1, 40, 2, 8, 6, [20])
    arrays = [a for a, _ in pairs]
    options = {"num_heads": 2, "stride": 6}
    before = gn.sparse_attention(*arrays, mx.array(count), **options)
    changed = [mx.concatenate([a[:, :cut], a[:, cut:] * 3 + 1], axis=1) for a in arrays[:3]] + arrays[3:]
    assert mx.array_equal(gn.sparse_attention(*changed, mx.array(count), **options)[:, :cut], before[:, :cut])


def test_a_window_one_too_wide_would_fail():
    pairs, count, _ = operands(1, 30, 1, 8, 5, [0])
    refs = [r for _, r in pairs]
    y = gn.sparse_attention(*[a for a, _ in pairs], mx.array(count), num_heads=1, stride=5)
    wide = [*refs[:3], *[np.zeros((1, 6, 8))] * 2, *refs[5:]]
    with pytest.raises(AssertionError, match="NRMSE"):
        assert_close(y, sparse_attention_ref(*wide, count, num_heads=1, stride=6))


def test_large_scores(impl):
    """Scores in the hundreds, where exponentials without the largest score taken off would overflow."""
    pairs, count, _ = operands(1, 20, 1, 4, 8, [9])
    arrays = [a * 20 if i in (0, 1, 3, 5) else a for i, (a, _) in enumerate(pairs)]
    y = gn.sparse_attention(*arrays, mx.array(count), num_heads=1, stride=8)
    refs = [to_numpy(a) for a in arrays]
    assert_close(y, sparse_attention_ref(*refs, count, num_heads=1, stride=8), "float16")


def test_strided_inputs(impl):
    pairs, count, _ = operands(2, 30, 2, 8, 4, [7, 12])
    arrays = [mx.stack([a, a * 0], axis=-1).swapaxes(1, 2)[..., 0].swapaxes(1, 2) for a, _ in pairs]
    y = gn.sparse_attention(*arrays, mx.array(count), num_heads=2, stride=4)
    assert_close(y, sparse_attention_ref(*[r for _, r in pairs], count, num_heads=2, stride=4))


def test_same_bits_for_any_thread_count():
    pairs, count, (dy, _) = operands(3, 200, 2, 24, 16, [0, 100, 45])
    arrays, results, before = [a for a, _ in pairs], [], gn.num_threads()

    def fn(*args):
        return gn.sparse_attention(*args, mx.array(count), num_heads=2, stride=16)

    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        results.append([fn(*arrays), *vjp(fn, arrays, [dy])])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    assert all(mx.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_transforms():
    pairs, count, _ = operands(2, 20, 2, 8, 4, [5, 9])
    arrays, refs = [a for a, _ in pairs], [r for _, r in pairs]
    options = {"num_heads": 2, "stride": 4}

    def fn(*args):
        return gn.sparse_attention(*args, mx.array(count), **options)

    expected = sparse_attention_ref(*refs, count, **options)
    assert_close(mx.compile(fn)(*arrays), expected)
    mapped = mx.vmap(fn)(*[mx.stack([a, a]) for a in arrays])
    assert_close(mapped[1], expected)
    _, (dot,) = mx.jvp(lambda v: fn(*arrays[:2], v, *arrays[3:]), [arrays[2]], [arrays[2]])
    zeros = [mx.zeros_like(a) if i in (4, 6) else a for i, a in enumerate(arrays)]
    assert_close(dot, np.array(fn(*zeros)))
    second = mx.grad(lambda q: (mx.grad(lambda q: (fn(q, *arrays[1:]) ** 2).sum())(q) ** 2).sum())(arrays[0])
    assert bool(mx.isfinite(second).all()) and bool(mx.any(second != 0))
    assert_close(gn.sparse_attention(*arrays, mx.array(count), stream=mx.new_stream(mx.cpu), **options), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, r"\[sparse_attention\] num_heads does not divide dim, given 3 and dim = 8, allowed: a div"),
        ({"stride": 0}, r"stride is below 1, given 0, allowed: 1 or more"),
        ({"k": mx.zeros((1, 4, 8))}, r"k has the wrong shape, given \(1, 4, 8\), allowed: "),
        ({"q": mx.zeros((5, 8))}, r"q has the wrong shape, given \(5, 8\), allowed: \(batch, seqlen, dim\)"),
        ({"window_k": mx.zeros((1, 3, 8))}, r"window_k has the wrong shape, given \(1, 3, 8\)"),
        ({"far_v": mx.zeros((1, 3, 8))}, r"far_v has the wrong shape, given \(1, 3, 8\)"),
        ({"count": mx.array([0, 1])}, r"count has the wrong shape, given \(2,\)"),
        ({"count": mx.array([0.5])}, r"count has the wrong dtype, given float32, allowed: integers"),
        ({"v": mx.zeros((1, 5, 8), dtype=mx.int32)}, r"v has the wrong dtype, given int32"),
        ({"cu_seqlens": mx.array([0, 5])}, r"q has the wrong shape, given \(1, 5, 8\), allowed: \(total, dim\)"),
    ],
)
def test_malformed_input(changes, message):
    rows, state = mx.zeros((1, 5, 8)), mx.zeros((1, 4, 8))
    arguments = dict(zip(NAMES, [rows] * 3 + [state] * 4, strict=True))
    arguments = {**arguments, "count": mx.array([16]), "num_heads": 2, "stride": 4, **changes}
    with pytest.raises(ValueError, match=message):
        gn.sparse_attention(**arguments)
