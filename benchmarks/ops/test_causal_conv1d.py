"""causal_conv1d against MLX's grouped convolution."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx import nn

import ghost_native as gn
from benchmarks.conftest import Timed

SHAPES = [(16, 128, 256), (16, 256, 512)]


def operands(shape: tuple[int, int, int]) -> tuple[mx.array, mx.array, mx.array]:
    mx.random.seed(0)
    x, w, b = mx.random.normal(shape), mx.random.normal((shape[2], 4)), mx.random.normal((shape[2],))
    mx.eval(x, w, b)
    return x, w, b


def rival(x: mx.array, w: mx.array, b: mx.array) -> mx.array:
    padded = mx.pad(x, [(0, 0), (3, 0), (0, 0)])
    return nn.silu(mx.conv1d(padded, w[..., None], groups=x.shape[2]) + b)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(timed: Timed, shape: tuple[int, int, int]) -> None:
    x, w, b = operands(shape)
    assert mx.allclose(gn.causal_conv1d(x, w, b, activation="silu"), rival(x, w, b), atol=1e-4)
    timed(lambda: gn.causal_conv1d(x, w, b, activation="silu"), moved=2 * x.nbytes)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(timed: Timed, shape: tuple[int, int, int]) -> None:
    x, w, b = operands(shape)
    timed(lambda: mx.vjp(lambda *a: [gn.causal_conv1d(*a, activation="silu")], [x, w, b], [x]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rival_mlx_conv1d(timed: Timed, shape: tuple[int, int, int]) -> None:
    inputs = operands(shape)
    timed(lambda: rival(*inputs), moved=2 * inputs[0].nbytes)
