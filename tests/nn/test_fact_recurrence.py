"""The recurrences of FactMemory against plain loops."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ghost_native.nn.fact_recurrence import began_ago, decayed_sum, last_events
from tests.tolerances import NRMSE, nrmse


@pytest.mark.parametrize("seqlen", [1, 2, 31, 32, 33, 255, 1100])
def test_decayed_sum(seqlen: int) -> None:
    rng = np.random.default_rng(seqlen)
    x, keep = rng.normal(size=(3, seqlen, 5)), -rng.exponential(0.2, (3, seqlen))
    x, keep, initial = x.astype(np.float32), keep.astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    state, want = initial.astype(np.float64), np.empty(x.shape)
    for t in range(seqlen):
        state = np.exp(keep[:, t, None].astype(np.float64)) * state + x[:, t]
        want[:, t] = state
    got = decayed_sum(mx.array(x), mx.array(keep), mx.array(initial))
    assert nrmse(got, want) < 2 * NRMSE["float32"]
    no_carry = decayed_sum(mx.array(x), mx.array(keep), mx.zeros((3, 5)))
    assert nrmse(no_carry, want) > 10 * NRMSE["float32"]


def test_began_ago() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=(2, 8 + 11)) * 2
    p = 1 / (1 + np.exp(-logit))
    got = np.exp(np.array(began_ago(mx.array(logit.astype(np.float32)), 11, 8)))
    for t in range(11):
        for j in range(8):
            now = 8 + t
            want = p[:, now - j] * np.prod(1 - p[:, now - j + 1 : now + 1], axis=1)
            np.testing.assert_allclose(got[:, t, j], want, rtol=1e-5)


def test_last_events_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    row = np.where(rng.random((2, 50)) < 0.2, rng.integers(1, 9, (2, 50)), 0)
    keep, weight = -rng.exponential(0.1, (2, 50)), -rng.exponential(0.5, (2, 50))
    state = [np.array([[3, 0], [5, 4]]), np.array([[-0.5, -9.0], [-0.1, -0.2]]), np.array([[2.0, 99.0], [0.0, 7.0]])]
    rows, logs, ages = last_events(
        mx.array(row.astype(np.int32)),
        mx.array(weight.astype(np.float32)),
        mx.array(keep.astype(np.float32)),
        mx.array(state[0].astype(np.int32)),
        mx.array(state[1].astype(np.float32)),
        mx.array(state[2].astype(np.float32)),
    )
    for b in range(2):
        slots = [list(item) for item in zip(*(s[b].tolist() for s in state), strict=True)]
        for t in range(50):
            slots = [[r, log + keep[b, t], age + 1] for r, log, age in slots]
            if row[b, t]:
                slots = [[row[b, t], weight[b, t], 0.0], slots[0]]
            assert rows[b, t].tolist() == [s[0] for s in slots]
            np.testing.assert_allclose(np.array(logs[b, t]), [s[1] for s in slots], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(np.array(ages[b, t]), [s[2] for s in slots])
