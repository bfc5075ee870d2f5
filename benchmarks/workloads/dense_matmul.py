"""The product with float weights."""

from __future__ import annotations

import mlx.core as mx
from tests.tolerances import to_numpy

import ghost_native as gn
from benchmarks.measure import Case, by
from benchmarks.workloads.work import Work
from ghost_native.reference.dense_matmul import dense_matmul_ref, dense_matmul_vjp_ref

SHAPES = [(1, 256, 256), (4096, 256, 256), (4096, 1024, 256), (1024, 1024, 1024)]  # rows, columns, depth


def make(M: int, N: int, K: int, *, dtype: str = "float32") -> Work:
    mx.random.seed(0)
    kind = getattr(mx, dtype)
    inputs = {"x": mx.random.normal((M, K)).astype(kind), "weight": mx.random.normal((N, K)).astype(kind)}
    mx.eval(inputs)
    moved = float(inputs["x"].itemsize * (M * K + N * K + M * N))
    case = Case("dense_matmul", by(M, N, K), dtype, flops=2.0 * M * N * K, moved=moved)
    work = Work(
        gn.dense_matmul,
        inputs,
        case,
        case.backward(6.0 * M * N * K, 3 * moved),
        expected=lambda: dense_matmul_ref(**work.numpy()),
        differentiable=("x", "weight"),
        expected_both=lambda: dense_matmul_vjp_ref(**work.numpy(), dy=to_numpy(work.dy())),
    )
    return work
