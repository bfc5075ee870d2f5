"""selective_scan against a loop of MLX operations."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

import ghost_native as gn
from benchmarks.conftest import Timed
from ghost_native.reference.selective_scan import selective_scan_ref

SHAPES = [(16, 256, 512, 16), (1, 2048, 512, 16), (4, 1024, 1024, 16), (16, 128, 256, 16)]
RIVAL = SHAPES[-1]

Scan = Callable[..., mx.array]


def operands(batch: int, seqlen: int, dim: int, dstate: int) -> list[mx.array]:
    mx.random.seed(0)
    u, delta = mx.random.normal((batch, seqlen, dim)), 0.5 * mx.random.normal((batch, seqlen, dim))
    A = -mx.broadcast_to(mx.arange(1, dstate + 1, dtype=mx.float32), (dim, dstate)) + 0.0
    B, C = mx.random.normal((batch, seqlen, dstate)), mx.random.normal((batch, seqlen, dstate))
    D, bias = mx.ones((dim,)), mx.random.uniform(-7, -2, (dim,))
    inputs = [u, delta, A, B, C, D, bias]
    mx.eval(inputs)
    return inputs


def native(u: mx.array, delta: mx.array, *rest: mx.array) -> mx.array:
    A, B, C, D, bias = rest
    return gn.selective_scan(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True)


def loop(u: mx.array, delta: mx.array, *rest: mx.array) -> mx.array:
    A, B, C, D, bias = rest
    dt, h, ys = nn.softplus(delta + bias), mx.zeros((u.shape[0], *A.shape)), []
    for t in range(u.shape[1]):
        h = mx.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1))
    return mx.stack(ys, 1) + u * D


def check(scan: Scan, inputs: list[mx.array]) -> None:
    u, delta, A, B, C, D, bias = (np.array(v)[:1, :64] if v.ndim == 3 else np.array(v) for v in inputs)
    expected = selective_scan_ref(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True)[0]
    np.testing.assert_allclose(np.array(scan(*inputs))[:1, :64], expected, rtol=1e-3, atol=1e-3)


def both(scan: Scan, inputs: list[mx.array]) -> Callable[[], tuple[list[mx.array], list[mx.array]]]:
    dy = mx.random.normal(inputs[0].shape)
    mx.eval(dy)
    return lambda: mx.vjp(lambda *a: [scan(*a)], inputs, [dy])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(timed: Timed, shape: tuple[int, ...]) -> None:
    inputs = operands(*shape)
    check(native, inputs)
    timed(lambda: native(*inputs), moved=12 * float(np.prod(shape[:3])))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(timed: Timed, shape: tuple[int, ...]) -> None:
    inputs = operands(*shape)
    check(native, inputs)
    timed(both(native, inputs))


def test_rival_mlx_loop_forward(timed: Timed) -> None:
    inputs = operands(*RIVAL)
    check(loop, inputs)
    timed(lambda: loop(*inputs))


def test_rival_mlx_loop_forward_and_backward(timed: Timed) -> None:
    timed(both(loop, operands(*RIVAL)))
