"""The short causal convolution of a Mamba layer, with SiLU."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
from tests.tolerances import to_numpy

import ghost_native as gn
from benchmarks.measure import BOTH, Case, by
from benchmarks.workloads.work import Work
from ghost_native.reference.causal_conv1d import causal_conv1d_ref, causal_conv1d_vjp_ref

SHAPES = [(16, 256, 512, 4), (1, 2048, 512, 4)]  # batch, seqlen, dim, width
SILU, SILU_GRADIENT = 24.0, 28.0  # FLOPs of an element, its exponential and division included


def make(batch: int, seqlen: int, dim: int, width: int, *, dtype: str = "float32") -> Work:
    mx.random.seed(0)
    inputs = {
        "x": mx.random.normal((batch, seqlen, dim)).astype(getattr(mx, dtype)),
        "weight": mx.random.normal((dim, width)).astype(getattr(mx, dtype)),
        "bias": mx.random.normal((dim,)).astype(getattr(mx, dtype)),
    }
    mx.eval(inputs)
    x = inputs["x"]
    case = Case(
        "causal_conv1d", by(batch, seqlen, dim, width), dtype, flops=(2 * width + SILU) * x.size, moved=2.0 * x.nbytes
    )

    def expected_both() -> list[object]:
        values = {name: to_numpy(v) for name, v in inputs.items()}
        zeros = to_numpy(mx.zeros((batch, width - 1, dim)))
        found = causal_conv1d_vjp_ref(**values, dy=to_numpy(work.dy()), dlast_state=zeros, activation="silu")
        return list(found[:3])

    work = Work(
        partial(gn.causal_conv1d, activation="silu"),
        inputs,
        case,
        Case(case.operator, case.shape, dtype, BOTH, flops=(8 * width + SILU + SILU_GRADIENT) * x.size,
             moved=5.0 * x.nbytes),
        expected=lambda: causal_conv1d_ref(**work.numpy(), activation="silu")[0],
        differentiable=("x", "weight", "bias"),
        expected_both=expected_both,
    )  # fmt: skip
    return work
