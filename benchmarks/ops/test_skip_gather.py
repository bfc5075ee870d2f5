"""Routing a quarter of the rows: plan, gather, gated scatter, against MLX's indexing."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import ghost_native as gn
from benchmarks.conftest import Timed

ROWS = 4096
DIMS = [256, 512]


def operands(dim: int) -> tuple[mx.array, mx.array, mx.array]:
    mx.random.seed(0)
    x, mask, gate = (
        mx.random.normal((16, ROWS // 16, dim)),
        mx.random.uniform(shape=(16, ROWS // 16)) < 0.25,
        mx.array(0.5),
    )
    mx.eval(x, mask)
    return x, mask, gate


def native(x: mx.array, mask: mx.array, gate: mx.array) -> mx.array:
    plan = gn.routing_plan(mask)
    rows = gn.skip_gather(x, plan)
    return gn.skip_scatter(x, 2 * rows, plan, mx.broadcast_to(gate, (rows.shape[0],)))


def rival(x: mx.array, mask: mx.array, gate: mx.array) -> mx.array:
    index = mx.array(np.flatnonzero(np.array(mask)).astype(np.int32))
    flat = x.reshape(-1, x.shape[-1])
    rows = flat[index]
    return flat.at[index].add(gate * (2 * rows - rows)).reshape(x.shape)


@pytest.mark.parametrize("dim", DIMS)
def test_plan_gather_scatter(timed: Timed, dim: int) -> None:
    inputs = operands(dim)
    assert mx.allclose(native(*inputs), rival(*inputs), atol=1e-5)
    timed(lambda: native(*inputs), moved=2 * inputs[0].nbytes)


@pytest.mark.parametrize("dim", DIMS)
def test_rival_mlx_indexing(timed: Timed, dim: int) -> None:
    inputs = operands(dim)
    timed(lambda: rival(*inputs), moved=2 * inputs[0].nbytes)
