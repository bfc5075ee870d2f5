"""The loss of every row."""

from __future__ import annotations

import mlx.core as mx
from tests.tolerances import to_numpy

import ghost_native as gn
from benchmarks.measure import Case, by
from benchmarks.workloads.work import Work
from ghost_native.reference.cross_entropy import cross_entropy_ref, cross_entropy_vjp_ref

SHAPES = [(4096, 256)]  # rows, classes
FLOPS = 24.0  # of a logit: an exponential of about 10 multiply-adds, the maximum, the sum


def make(rows: int, classes: int, *, dtype: str = "float32") -> Work:
    mx.random.seed(0)
    inputs = {
        "logits": mx.random.normal((rows, classes)).astype(getattr(mx, dtype)),
        "targets": mx.random.randint(0, classes, (rows,)),
    }
    mx.eval(inputs)
    logits = inputs["logits"]
    case = Case("cross_entropy", by(rows, classes), dtype, flops=FLOPS * logits.size, moved=float(logits.nbytes))
    work = Work(
        gn.cross_entropy,
        inputs,
        case,
        case.backward(2 * FLOPS * logits.size, 3.0 * logits.nbytes),
        expected=lambda: cross_entropy_ref(**work.numpy()),
        differentiable=("logits",),
        expected_both=lambda: [cross_entropy_vjp_ref(**work.numpy(), dloss=to_numpy(work.dy()))],
    )
    return work
