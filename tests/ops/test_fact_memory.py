from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native.nn.fact_store import HASH_BASE, FactStore, byte_hashes, is_word_byte
from ghost_native.reference import fact_memory as ref
from tests.operators import DTYPES, central_differences, rounded, vjp
from tests.tolerances import NRMSE, assert_close, nrmse

WORD = is_word_byte(np.arange(257))


def assert_gradient(actual, expected, bytes_, what):
    """Few sums over all bytes may cancel to nearly nothing: they are held against what rounding leaves of the terms."""
    if expected.size > 5:
        assert_close(actual, expected, what=what)
        return
    limit = 4 * NRMSE["float32"] * np.sqrt(bytes_) * (1 + np.abs(expected).max())
    np.testing.assert_allclose(np.array(actual), expected, rtol=0, atol=limit, err_msg=what)


def score_operands(batch, seqlen, dim, rows, slots=4, dtype="float32", seed=0):
    """bag, keys, hit_log, log_scale and null_score as pairs, key_length (first and last row without key), hit_row."""
    r = np.random.default_rng(seed)
    floats = [r.standard_normal((batch, seqlen, dim)), r.standard_normal((rows, dim)) * 0.7]
    floats += [-r.exponential(0.7, (batch, seqlen, slots)), 0.3 * r.standard_normal(5), np.array(0.8)]
    length = np.where((np.arange(rows) == 0) | (np.arange(rows) == rows - 1), 0, r.integers(1, 40, rows))
    return [rounded(v, dtype) for v in floats], length, r.integers(0, rows, (batch, seqlen, slots))


def score_fn(length, hits, top_k):
    def fn(bag, keys, hit_log, log_scale, null_score):
        out = gn.fact_scores(bag, keys, mx.array(length), mx.array(hits), hit_log, log_scale, null_score, top_k)
        return out[0], out[1], out[3], out[4]

    return fn


def check_scores(batch, seqlen, dim, rows, top_k=3, seed=0):
    pairs, length, hits = score_operands(batch, seqlen, dim, rows, seed=seed)
    given_, exact = zip(*pairs, strict=True)
    bag, keys, hit_log, scale, null = exact
    expected = ref.fact_scores_ref(bag, keys, length, hits, hit_log, scale, null, top_k)
    candidates = gn.fact_scores(
        given_[0], given_[1], mx.array(length), mx.array(hits), given_[2], given_[3], given_[4], top_k
    )[2]
    assert np.array_equal(np.array(candidates), expected[2])
    fn, r = score_fn(length, hits, top_k), np.random.default_rng(seed + 1)
    want = (expected[0], expected[1], expected[3], expected[4])
    real = length > 0
    real[0] = True  # padding scores -1e4, beside which nothing shows
    for value, exact_value in zip(fn(*given_), want, strict=True):
        if exact_value.shape == expected[0].shape:
            value, exact_value = np.array(value)[..., real], exact_value[..., real]
        assert_close(np.clip(np.array(value), -1e3, None), np.clip(exact_value, -1e3, None))
    d = [rounded(r.standard_normal(v.shape), "float32") for v in want]
    grads = vjp(fn, given_, [x for x, _ in d])
    expected_grads = ref.fact_scores_vjp_ref(bag, keys, length, hits, hit_log, scale, null, top_k, *(x for _, x in d))
    for name, a, b in zip(("bag", "keys", "hit_log", "log_scale", "null"), grads, expected_grads, strict=True):
        assert_gradient(a, np.asarray(b), batch * seqlen, name)


def place_operands(batch, seqlen, width, count=3, rows=7, dtype="float32", seed=0):
    """began, log_weights and scale as pairs, then the integers: text that spells values every now and then."""
    r = np.random.default_rng(seed)
    candidates = r.integers(0, rows, (batch, width + 1 + seqlen, count))
    text = r.integers(97, 99, (batch, seqlen + 5))
    values = r.integers(97, 99, (rows, width))
    context = np.zeros((rows, width), np.uint32)
    for back in range(4):
        context[:, back + 1 :] |= values[:, : max(width - back - 1, 0)].astype(np.uint32) << np.uint32(8 * back)
    length = r.integers(0, width + 1, rows)
    length[0] = width
    floats = [-r.exponential(1.0, (batch, seqlen, width)) - 1.5, -r.exponential(1.0, candidates.shape) - 2]
    floats.append(r.standard_normal(5))
    candidates[:, :, 0] = 0
    return [rounded(v, dtype) for v in floats], (candidates, text, values, context, length)


def place_fn(ints):
    candidates, text, values, context, length = (mx.array(v) for v in ints)

    def fn(began, weights, scale):
        return gn.fact_positions(began, candidates, weights, text, scale, values, context, length)

    return fn


def check_positions(batch, seqlen, width, count=3, seed=0):
    pairs, ints = place_operands(batch, seqlen, width, count, seed=seed)
    (began, began_r), (weights, weights_r), (scale, scale_r) = pairs
    candidates, text, values, context, length = ints
    exact = (began_r, candidates, weights_r, text, scale_r, values, context, length)
    fn, r = place_fn(ints), np.random.default_rng(seed + 1)
    want = ref.fact_positions_ref(*exact)
    for value, expected in zip(fn(began, weights, scale), want, strict=True):
        assert_close(value, expected)
    d = [rounded(r.standard_normal(v.shape), "float32") for v in want]
    grads = vjp(fn, [began, weights, scale], [x for x, _ in d])
    expected_grads = ref.fact_positions_vjp_ref(*exact, *(x for _, x in d))
    for name, a, b in zip(("began", "log_weights", "scale"), grads, expected_grads, strict=True):
        assert_gradient(a, b, batch * seqlen, name)


def test_reference_vjps_match_central_differences():
    pairs, length, hits = score_operands(2, 3, 4, 6)
    exact = [e for _, e in pairs]

    def scores(v):
        out = ref.fact_scores_ref(v[0], v[1], length, hits, v[2], v[3], v[4], 5)  # all: choosing is a step
        return out[0], out[1], *ordered(out[2], out[3]), out[4]

    def ordered(candidates, log_weights):
        return (np.take_along_axis(log_weights, np.argsort(candidates, axis=-1), -1),)

    r = np.random.default_rng(1)
    d = [r.standard_normal(v.shape) for v in scores(exact)]
    candidates = ref.fact_scores_ref(exact[0], exact[1], length, hits, *exact[2:], 5)[2]
    of_weights = np.take_along_axis(d[2], np.argsort(np.argsort(candidates, axis=-1), axis=-1), -1)
    grads = ref.fact_scores_vjp_ref(exact[0], exact[1], length, hits, *exact[2:], 5, d[0], d[1], of_weights, d[3])
    for a, b in zip(central_differences(scores, exact, d), grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    pairs, ints = place_operands(2, 3, 4)
    candidates, text, *table = ints
    exact = [e for _, e in pairs]

    def positions(v):
        return ref.fact_positions_ref(v[0], candidates, v[1], text, v[2], *table)

    d = [r.standard_normal(v.shape) for v in positions(exact)]
    grads = ref.fact_positions_vjp_ref(exact[0], candidates, exact[1], text, exact[2], *table, *d)
    for a, b in zip(central_differences(positions, exact, d), grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("seqlen", "dim", "rows"), [(1, 16, 16), (33, 31, 17), (70, 64, 67)])
def test_scores_match_reference(impl, seqlen, dim, rows):
    check_scores(3, seqlen, dim, rows)


@pytest.mark.parametrize(("seqlen", "width", "count"), [(3, 16, 5), (33, 7, 3), (70, 17, 2)])
def test_positions_match_reference(impl, seqlen, width, count):
    check_positions(3, seqlen, width, count)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_as_float32(impl, dtype):
    pairs, length, hits = score_operands(2, 9, 8, 9, dtype=dtype)
    places, ints = place_operands(2, 9, 6, dtype=dtype)
    for fn, operands in ((score_fn(length, hits, 2), pairs), (place_fn(ints), places)):
        half = [p[0] for p in operands]
        wide = [v.astype(mx.float32) for v in half]
        out = fn(*half)
        for a, b in zip(out, fn(*wide), strict=True):
            assert a.dtype == mx.float32 and mx.array_equal(a, b)
        for a, b in zip(vjp(fn, half, out), vjp(fn, wide, out), strict=True):
            assert a.dtype == DTYPES[dtype] and mx.array_equal(a, b.astype(a.dtype))


def test_every_instruction_set(isa):
    for n in (5, 16, 45):
        check_scores(2, 9, n, n)
        check_positions(2, 9, n)


@given(seqlen=st.integers(8, 80), dim=st.integers(8, 40), rows=st.integers(5, 70), top_k=st.integers(0, 4))
@settings(max_examples=30)
def test_scores_of_any_shape(seqlen, dim, rows, top_k):
    check_scores(2, seqlen, dim, rows, top_k=min(top_k, rows - 2), seed=seqlen)


@given(seqlen=st.integers(8, 60), width=st.integers(3, 20), count=st.integers(2, 5))
@settings(max_examples=30)
def test_positions_of_any_shape(seqlen, width, count):
    check_positions(2, seqlen, width, count, seed=seqlen)


@pytest.mark.parametrize(("batch", "seqlen"), [(0, 3), (2, 0)])
def test_empty(impl, batch, seqlen):
    pairs, length, hits = score_operands(batch, seqlen, 4, 5)
    scores = score_fn(length, hits, 2)(*(p[0] for p in pairs))
    assert [v.shape for v in scores] == [(batch, seqlen, 5), (batch, seqlen), (batch, seqlen, 3), (batch, seqlen)]
    pairs, ints = place_operands(batch, seqlen, 4)
    assert [v.size for v in place_fn(ints)(*(p[0] for p in pairs))] == [0, 0, 0]


def match(text: bytes, store: FactStore, history: int = 65):
    folded = np.array([[256] * history + list(text.lower())], np.int32)
    table = store.pack()
    got = gn.fact_match(
        mx.array(folded),
        table["keys"],
        table["key_length"],
        table["key_hash"],
        mx.array(byte_hashes()),
        mx.array(WORD),
        history,
        HASH_BASE,
    )
    want = ref.fact_match_ref(folded, np.array(table["keys"]), np.array(table["key_length"]), WORD, history)
    return [np.array(v) for v in got], want


small_text = st.text(alphabet="aAb .\xe9_", min_size=0, max_size=40).map(lambda t: t.encode())
small_key = st.text(alphabet="ab. \xe9", min_size=1, max_size=6).map(lambda t: t.encode().strip()).filter(bool)


@settings(max_examples=100)
@given(small_text, st.lists(small_key, min_size=1, max_size=12))
def test_match(text, keys):
    store = FactStore((key, b"v") for key in keys)
    native, want = match(text, store)
    with gn.composed_form():
        composed, _ = match(text, store)
    for a, b, c in zip(native, composed, want, strict=True):
        assert np.array_equal(a, c) and np.array_equal(b, c)


def test_equal_rows_are_chosen_from_the_first(impl):
    keys = mx.array(np.repeat([[0.0, 0.0], [1.0, 0.5]], [1, 6], axis=0))
    bag, none = mx.ones((1, 2, 2)), mx.zeros((1, 2, 1), dtype=mx.int32)
    length = mx.array([0, 3, 3, 3, 3, 3, 3])
    out = gn.fact_scores(bag, keys, length, none, none.astype(mx.float32), mx.zeros((5,)), mx.array(0.0), 3)
    assert out[2].tolist() == [[[0, 1, 2, 3]] * 2]


def test_candidates_outside_the_table_stay_inside():
    pairs, ints = place_operands(1, 4, 5)
    wild = (ints[0] + 1000, *ints[1:])
    assert bool(mx.isfinite(place_fn(wild)(*(p[0] for p in pairs))[0]).all())


def test_a_forgotten_bonus_would_fail():
    pairs, ints = place_operands(2, 20, 8)
    (began, _), (weights, _), (scale, _) = pairs
    copy, without = (
        place_fn(ints)(began, weights, scale)[0],
        place_fn(ints)(began, weights, scale * mx.array([1] + [0] * 4))[0],
    )
    assert nrmse(without, np.array(copy)) > NRMSE["bfloat16"]


def test_same_bits_for_any_thread_count():
    pairs, length, hits = score_operands(3, 150, 16, 40)
    places, ints = place_operands(3, 150, 9)
    results, before = [], gn.num_threads()
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        result = []
        for fn, operands in ((score_fn(length, hits, 3), pairs), (place_fn(ints), places)):
            given_ = [p[0] for p in operands]
            out = list(fn(*given_))
            result += [*out, *vjp(fn, given_, out)]
        mx.eval(result)
        results.append(result)
    gn.set_num_threads(before)
    assert all(mx.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_transforms():
    pairs, length, hits = score_operands(2, 9, 8, 9)
    places, ints = place_operands(2, 9, 6)
    for fn, operands in ((score_fn(length, hits, 2), pairs), (place_fn(ints), places)):
        given_ = [p[0] for p in operands]
        out = fn(*given_)
        for a, b in zip(mx.compile(fn)(*given_), out, strict=True):
            assert mx.array_equal(a, b)
        with gn.composed_form():
            expected = [mx.jvp(fn, given_, given_)[1], mx.vmap(fn)(*(mx.stack([v, v]) for v in given_))]
            mx.eval(expected)
        got = [mx.jvp(fn, given_, given_)[1], mx.vmap(fn)(*(mx.stack([v, v]) for v in given_))]
        for all_a, all_b in zip(got, expected, strict=True):
            for a, b in zip(all_a, all_b, strict=True):
                assert_close(a, np.array(b))

        def once(v, fn=fn, rest=given_[1:]):
            return sum((x * x).sum() for x in mx.grad(lambda v: fn(v, *rest)[1].sum())(v))

        assert bool(mx.isfinite(mx.grad(once)(given_[0])).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda z, i: gn.fact_scores(z((1, 2, 3)), z((4, 5)), i(4), i(1, 2, 4), z((1, 2, 4)), z((5,)), z(()), 2),
            r"\[fact_scores\] keys has the wrong shape, given \(4, 5\)",
        ),
        (
            lambda z, i: gn.fact_scores(z((1, 2, 3)), z((4, 3)), i(4), i(1, 2, 4), z((1, 2, 4)), z((5,)), z(()), -1),
            r"\[fact_scores\] top_k is negative, given -1",
        ),
        (
            lambda z, i: gn.fact_positions(
                z((1, 2, 3)), i(1, 3, 2), z((1, 3, 2)), i(1, 9), z((5,)), i(4, 3), i(4, 3), i(4)
            ),
            r"\[fact_positions\] candidates has the wrong shape, given \(1, 3, 2\), allowed: .*at least width - 1 = 2",
        ),
        (
            lambda z, i: gn.fact_match(i(1, 9), i(4, 9), i(4), i(4), i(257), i(257), 9, 3),
            r"\[fact_match\] history is out of range, given 9, allowed: over the key width 9",
        ),
    ],
)
def test_malformed_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(mx.zeros, lambda *shape: mx.zeros(shape, dtype=mx.int32))
