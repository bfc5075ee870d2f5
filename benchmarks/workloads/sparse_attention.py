"""Attention to a window and to every stride-th row before it, from an empty past."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import numpy as np
from tests.tolerances import to_numpy

import ghost_native as gn
from benchmarks.measure import Case, by
from benchmarks.workloads.work import Work
from ghost_native.reference.sparse_attention import sparse_attention_ref, sparse_attention_vjp_ref

SHAPES = [(16, 256, 256, 4, 128), (1, 2048, 256, 4, 128)]  # batch, seqlen, dim, heads, stride
EXPONENTIAL = 20.0  # FLOPs
BACKWARD = 2.5  # five products of rows with rows for the two of the forward pass
ROWS = ("q", "k", "v")


def make(batch: int, seqlen: int, dim: int, num_heads: int, stride: int, *, dtype: str = "float32") -> Work:
    mx.random.seed(0)
    kind = getattr(mx, dtype)
    inputs = {name: mx.random.normal((batch, seqlen, dim)).astype(kind) for name in ROWS}
    inputs |= {name: mx.zeros((batch, stride, dim), kind) for name in ("window_k", "window_v")}
    inputs |= {name: mx.zeros((batch, 0, dim), kind) for name in ("far_k", "far_v")}
    inputs["count"] = mx.zeros((batch,), mx.int32)
    mx.eval(inputs)
    pairs = batch * sum(min(n + 1, stride) + max(0, (n + 1) // stride - 1) for n in range(seqlen))
    flops = pairs * (4.0 * dim + EXPONENTIAL * num_heads)
    moved = 4.0 * inputs["q"].nbytes
    case = Case("sparse_attention", by(batch, seqlen, dim) + f", {num_heads} heads", dtype, flops=flops, moved=moved)

    def first() -> dict[str, np.ndarray]:
        return {name: x[:1] for name, x in work.numpy().items()}

    def expected_both() -> list[np.ndarray]:
        dy = to_numpy(work.dy())[:1]
        return list(sparse_attention_vjp_ref(**first(), dy=dy, num_heads=num_heads, stride=stride)[:3])

    work = Work(
        partial(gn.sparse_attention, num_heads=num_heads, stride=stride),
        inputs,
        case,
        case.backward((1 + BACKWARD) * flops, 3 * moved),
        expected=lambda: sparse_attention_ref(**first(), num_heads=num_heads, stride=stride),
        differentiable=ROWS,
        expected_both=expected_both,
        part=lambda y: y[:1],
        part_both=lambda gradients: [gradient[:1] for gradient in gradients],
    )
    return work
