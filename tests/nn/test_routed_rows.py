"""RoutedRows against scattering back after every layer."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ghost_native import ops
from ghost_native.nn.routed_rows import RoutedRows
from ghost_native.nn.router import Router
from tests.tolerances import assert_close

SHAPE = (3, 40, 8)
DEPTHS = {
    "nested": np.random.default_rng(0).uniform(1, 5, SHAPE[:2]),
    "all": np.full(SHAPE[:2], 5.0),
    "one of them": np.where(np.arange(120).reshape(SHAPE[:2]) == 17, 5.0, 2.5),
    "the same in all layers": np.where(np.arange(120).reshape(SHAPE[:2]) % 3 == 0, 5.0, 1.0),
    "none": np.full(SHAPE[:2], 1.0),
}


def weights() -> list[mx.array]:
    mx.random.seed(1)
    return [mx.random.normal((8, 8)) * 0.3 for _ in range(4)]


def layer(h: mx.array, residual: mx.array | None, w: mx.array) -> tuple[mx.array, mx.array]:
    h = h if residual is None else h + residual
    return h, mx.tanh(h @ w)


def packed(h: mx.array, depth: mx.array, ws: list[mx.array]) -> mx.array:
    rows = RoutedRows(h, depth)
    left, cu = np.array(depth), None
    for l, w in enumerate(ws, start=1):
        plan = ops.routing_plan(mx.array(left > l), cu_seqlens=cu)
        left, cu = left.reshape(-1)[np.array(plan.indices)], plan.cu_seqlens
        if not plan.indices.shape[0]:
            break
        rows.narrow(plan)
        rows.update(*layer(rows.h, rows.residual, w), Router.gate(rows.depth[:, 0], l))
    return rows.whole()


def scattered(h: mx.array, depth: mx.array, ws: list[mx.array]) -> mx.array:
    for l, w in enumerate(ws, start=1):
        gate = Router.gate(depth, l)
        x, y = layer(h, None, w)
        h = mx.where((depth > l)[..., None], h + (1 if gate is None else gate[..., None]) * (x + y - h), h)
    return h


@pytest.mark.parametrize("name", DEPTHS)
def test_rows_are_those_of_scattering_back_after_every_layer(name: str) -> None:
    mx.random.seed(0)
    h, depth, ws = mx.random.normal(SHAPE), mx.array(DEPTHS[name].astype(np.float32)), weights()
    out = packed(h, depth, ws)
    assert out.shape == SHAPE
    assert_close(out, scattered(h, depth, ws))
    stopped = DEPTHS[name] <= 1
    assert np.array_equal(np.array(out)[stopped], np.array(h)[stopped])


@pytest.mark.parametrize("name", DEPTHS)
def test_gradients_are_those_of_scattering_back(name: str) -> None:
    mx.random.seed(0)
    h, depth, ws = mx.random.normal(SHAPE), mx.array(DEPTHS[name].astype(np.float32)), weights()
    dy = mx.random.normal(SHAPE)
    both = [
        mx.grad(lambda h, d, *ws, f=f: (dy * f(h, d, list(ws))).sum(), argnums=range(6))(h, depth, *ws)
        for f in (packed, scattered)
    ]
    for got, want in zip(*both, strict=True):
        assert_close(got, want)
    if name != "none":
        assert mx.abs(both[0][1]).max() > 0  # the router learns


def test_without_a_gradient_there_is_no_gate() -> None:
    depth = mx.array([1.5, 2.5])
    assert Router.gate(depth, 1) is None
    slope = mx.grad(lambda d: Router.gate(d, 2).sum())(depth)
    soft = mx.sigmoid(4 * (depth - 2))
    assert_close(slope, 4 * soft * (1 - soft))
