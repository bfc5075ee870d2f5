"""codebook_matmul against MLX's own 2-bit and dense products."""

from __future__ import annotations

import mlx.core as mx
import pytest

import ghost_native as gn
from benchmarks.conftest import Timed

SHAPES = [(1, 256, 256), (1, 4096, 4096), (16, 4096, 4096), (256, 4096, 4096), (2048, 512, 128), (2048, 128, 512)]
DENSE = [(1, 256, 256), (2048, 512, 128), (2048, 128, 512)]  # the reference BLAS of the wheels takes seconds at others


def operands(M: int, N: int, K: int) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    mx.random.seed(0)
    w, x = mx.random.normal((N, K)), mx.random.normal((M, K))
    codes, codebook = gn.codebook_quantize(w)
    mx.eval(w, x, codes, codebook)
    return x, w, codes, codebook


def close(y: mx.array, expected: mx.array, tolerance: float) -> None:
    error = mx.sqrt(mx.square(y - expected).mean() / mx.square(expected).mean())
    assert error.item() < tolerance


@pytest.mark.parametrize(("M", "N", "K"), SHAPES)
@pytest.mark.parametrize(("activation", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2), ("int8", 3e-2)])
def test_forward(timed: Timed, M: int, N: int, K: int, activation: str, tolerance: float) -> None:
    x, _, codes, codebook = operands(M, N, K)
    rows = min(M, 16)
    expected = gn.dense_matmul(x[:rows], gn.codebook_dequantize(codes, codebook))
    close(gn.codebook_matmul(x, codes, codebook, activation=activation)[:rows], expected, tolerance)
    timed(lambda: gn.codebook_matmul(x, codes, codebook, activation=activation), flops=2 * M * N * K)


@pytest.mark.parametrize(("M", "N", "K"), SHAPES[-2:])
def test_training(timed: Timed, M: int, N: int, K: int) -> None:
    """Forward and backward with latent weights."""
    x, w, codes, codebook = operands(M, N, K)
    dy = mx.random.normal((M, N))
    mx.eval(dy)

    def step() -> tuple[list[mx.array], list[mx.array]]:
        return mx.vjp(lambda *a: [gn.codebook_matmul_latent(*a)], [x, w, codebook], [dy])

    close(step()[1][0], gn.dense_matmul(dy, gn.codebook_dequantize(codes, codebook).T), 1e-5)
    timed(step, flops=6 * M * N * K)


@pytest.mark.parametrize(("M", "N", "K"), SHAPES[:2])
def test_rival_mlx_quantized_matmul(timed: Timed, M: int, N: int, K: int) -> None:
    x, w, *_ = operands(M, N, K)
    quantized = mx.quantize(w, group_size=64, bits=2)
    mx.eval(quantized)
    timed(lambda: mx.quantized_matmul(x, *quantized, group_size=64, bits=2), flops=2 * M * N * K)


@pytest.mark.parametrize(("M", "N", "K"), DENSE)
def test_rival_mlx_dense(timed: Timed, M: int, N: int, K: int) -> None:
    x, w, *_ = operands(M, N, K)
    timed(lambda: x @ w.T, flops=2 * M * N * K)
