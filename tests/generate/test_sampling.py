"""Sampling: support of the nucleus, temperature 0, seeds, frequencies, errors."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ghost_native.generate import sample

rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=st.floats(-30, 30, width=32))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@given(rows, st.sampled_from(["float32", "float16", "bfloat16"]))
def test_temperature_zero_is_argmax(logits: np.ndarray, dtype: str) -> None:
    x = mx.array(logits).astype(getattr(mx, dtype))
    drawn = sample(x, temperature=0)
    assert drawn.dtype == mx.int32 and drawn.shape == (logits.shape[0],)
    np.testing.assert_array_equal(np.array(drawn), np.array(x.astype(mx.float32)).argmax(-1))


@settings(max_examples=60)
@given(rows, st.floats(0.01, 1.0), st.floats(0.05, 5.0), st.integers(0, 2**31))
def test_top_p_keeps_to_the_nucleus(logits: np.ndarray, top_p: float, temperature: float, seed: int) -> None:
    drawn = np.array(sample(mx.array(logits), temperature, top_p, mx.random.key(seed)))
    probabilities = softmax(logits / temperature)
    for row, index in zip(probabilities, drawn, strict=True):
        likelier = row[row > row[index] * (1 + 1e-4)].sum()
        assert likelier < top_p + 1e-4, "more likely indices already reach top_p"


@given(rows, st.integers(0, 2**31), st.sampled_from([0.3, 0.9, 1.0]))
def test_the_key_decides(logits: np.ndarray, seed: int, top_p: float) -> None:
    x, key = mx.array(logits), mx.random.key(seed)
    np.testing.assert_array_equal(np.array(sample(x, 1.0, top_p, key)), np.array(sample(x, 1.0, top_p, key)))


@pytest.mark.parametrize("top_p", [1.0, 0.75])
def test_frequencies(top_p: float) -> None:
    logits = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32))
    many = mx.broadcast_to(mx.array(logits), (20_000, 4))
    drawn = np.array(sample(many, 0.7, top_p, mx.random.key(1)))
    expected = softmax(logits / 0.7)
    if top_p < 1:
        expected[[0, 2]] = 0
        expected /= expected.sum()
    found = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(found, expected, atol=0.015)


def test_a_tiny_temperature_is_finite() -> None:
    logits = mx.array([3.0, 2.0, -mx.inf, 1.0])
    for top_p in (1.0, 0.5):
        assert int(sample(logits, 1e-38, top_p, mx.random.key(0))) == 0


def test_the_global_state_serves_without_a_key() -> None:
    x = mx.zeros((64, 256))
    mx.random.seed(3)
    first = np.array(sample(x))
    mx.random.seed(3)
    np.testing.assert_array_equal(first, np.array(sample(x)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1.0}, r"\[sample\] temperature is -1.0, allowed is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0.0, allowed is above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_errors(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(mx.zeros((1, 4)), **arguments)


def test_no_logits() -> None:
    with pytest.raises(ValueError, match=r"logits have shape \(2, 0\)"):
        sample(mx.zeros((2, 0)))
