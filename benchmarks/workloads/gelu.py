"""The activation of feed-forward layers."""

from __future__ import annotations

import mlx.core as mx
from tests.tolerances import to_numpy

import ghost_native as gn
from benchmarks.measure import Case, by
from benchmarks.workloads.work import Work
from ghost_native.reference.gelu import gelu_ref, gelu_vjp_ref

SHAPES = [(1, 1024), (4096, 1024)]  # rows, dim
FLOPS, FLOPS_BACKWARD = 30.0, 38.0  # of an element: an exponential of about 10 multiply-adds, a division, a cubic


def make(rows: int, dim: int, *, dtype: str = "float32") -> Work:
    mx.random.seed(0)
    inputs = {"x": mx.random.normal((rows, dim)).astype(getattr(mx, dtype))}
    mx.eval(inputs)
    x = inputs["x"]
    case = Case("gelu", by(rows, dim), dtype, flops=FLOPS * x.size, moved=2.0 * x.nbytes)
    work = Work(
        gn.gelu,
        inputs,
        case,
        case.backward((FLOPS + FLOPS_BACKWARD) * x.size, 5.0 * x.nbytes),
        expected=lambda: gelu_ref(**work.numpy()),
        differentiable=("x",),
        expected_both=lambda: [gelu_vjp_ref(**work.numpy(), dy=to_numpy(work.dy()))],
    )
    return work
