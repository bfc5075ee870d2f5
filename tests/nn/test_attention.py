from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghost_native.nn.attention import SparseAttention
from tests.tolerances import assert_close, to_numpy


def dense_reference(layer: SparseAttention, x: mx.array) -> np.ndarray:
    """The same attention with the whole score matrix, in float64, for x (batch, seqlen, dim)."""
    q, k, v = (to_numpy(f(x)) for f in (layer.query, layer.key, layer.value))
    batch, seqlen, dim = q.shape
    heads, head_dim, stride = layer.num_heads, layer.head_dim, layer.stride
    i, j = np.arange(seqlen)[:, None], np.arange(seqlen)[None]
    near = (j <= i) & (i - j < stride)
    far = (j % stride == stride - 1) & (i - j >= stride)
    out = np.zeros((batch, seqlen, dim))
    for h in range(heads):
        part = slice(h * head_dim, (h + 1) * head_dim)
        slope = 2.0 ** (-8.0 / heads * (h + 1))
        scores = q[:, :, part] @ k[:, :, part].swapaxes(1, 2) / np.sqrt(head_dim)
        scores = np.where(near, scores - slope * (i - j), np.where(far, scores, -np.inf))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, :, part] = weights / weights.sum(-1, keepdims=True) @ v[:, :, part]
    return to_numpy(layer.out(mx.array(out, dtype=mx.float32)))


def build(stride: int, dim: int = 32, head_dim: int = 8) -> SparseAttention:
    mx.random.seed(stride)
    return SparseAttention(dim, stride=stride, head_dim=head_dim, mode="float")


@settings(max_examples=25)
@given(stride=st.integers(1, 12), seqlen=st.integers(1, 60))
def test_matches_the_whole_score_matrix(stride, seqlen):
    layer = build(stride)
    x = mx.random.normal((2, seqlen, 32), key=mx.random.key(seqlen))
    assert_close(layer(x)[0], dense_reference(layer, x), "float16", "y")  # float32 weights in the output projection


@settings(max_examples=20)
@given(st.integers(1, 9), st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_pieces_equal_the_whole(stride, lengths):
    layer = build(stride)
    x = mx.random.normal((2, sum(lengths), 32), key=mx.random.key(stride))
    state, pieces, at = layer.init_state(2), [], 0
    for n in lengths:
        y, state = layer(x[:, at : at + n], state)
        pieces.append(y)
        at += n
    assert_close(mx.concatenate(pieces, axis=1), layer(x)[0])


@settings(max_examples=20)
@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=4))
def test_ragged_rows_equal_separate_sequences(stride, lengths):
    """Two calls with carried state, each sequence with a length of its own in both."""
    layer = build(stride)
    x = [mx.random.normal((a + b, 32), key=mx.random.key(i)) for i, (a, b) in enumerate(lengths)]
    state, got = layer.init_state(len(x)), [[] for _ in x]
    for cut in ("first", "second"):
        parts = [v[:a] if cut == "first" else v[a:] for v, (a, _) in zip(x, lengths, strict=True)]
        cu = np.cumsum([0] + [len(p) for p in parts]).astype(np.int32)
        y, state = layer(mx.concatenate(parts), state, mx.array(cu))
        for i in range(len(x)):
            got[i].append(y[int(cu[i]) : int(cu[i + 1])])
    for v, pieces in zip(x, got, strict=True):
        if len(v):
            assert_close(mx.concatenate(pieces), layer(v[None])[0][0])


def test_a_window_one_too_wide_would_fail():
    layer, x = build(5), mx.random.normal((1, 30, 32))
    expected = dense_reference(layer, x)
    layer.stride = 6
    with pytest.raises(AssertionError, match="NRMSE"):
        assert_close(layer(x)[0], expected, "float16")


def test_dim_must_fit_heads():
    with pytest.raises(ValueError, match=r"\[SparseAttention\] dim must be a multiple of head_dim, given 40 and 16"):
        SparseAttention(40, head_dim=16, mode="float")
