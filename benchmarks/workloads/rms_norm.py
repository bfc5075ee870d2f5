"""Root-mean-square normalization."""

from __future__ import annotations

import mlx.core as mx
from tests.tolerances import to_numpy

import ghost_native as gn
from benchmarks.measure import Case, by
from benchmarks.workloads.work import Work
from ghost_native.reference.rms_norm import rms_norm_ref, rms_norm_vjp_ref

SHAPES = [(1, 256), (4096, 256), (4096, 512)]  # rows, dim


def make(rows: int, dim: int, *, dtype: str = "float32") -> Work:
    mx.random.seed(0)
    kind = getattr(mx, dtype)
    inputs = {"x": mx.random.normal((rows, dim)).astype(kind), "weight": mx.random.normal((dim,)).astype(kind)}
    mx.eval(inputs)
    x = inputs["x"]
    case = Case("rms_norm", by(rows, dim), dtype, flops=4.0 * x.size, moved=2.0 * x.nbytes)
    work = Work(
        gn.rms_norm,
        inputs,
        case,
        case.backward(15.0 * x.size, 5.0 * x.nbytes),
        expected=lambda: rms_norm_ref(**work.numpy()),
        differentiable=("x", "weight"),
        expected_both=lambda: rms_norm_vjp_ref(**work.numpy(), dy=to_numpy(work.dy())),
    )
    return work
