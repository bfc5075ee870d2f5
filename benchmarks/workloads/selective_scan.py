"""The selective scan of a Mamba layer, softplus and skip included."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import numpy as np
from tests.tolerances import to_numpy

import ghost_native as gn
from benchmarks.measure import BOTH, Case, by
from benchmarks.workloads.work import Work
from ghost_native.reference.selective_scan import selective_scan_ref, selective_scan_vjp_ref

SHAPES = [(16, 256, 512, 16), (1, 2048, 512, 16), (4, 1024, 1024, 16)]  # batch, seqlen, dim, dstate
# Arithmetic of one element of the state in one step: an exponential of about 10 fused multiply-adds, the decay's
# exponent, the update, the output. Backward the states are computed again and each has five products more.
FLOPS, FLOPS_BACKWARD = 26.0, 40.0
CHECKED = 64  # channels of the first sequence that are compared


def make(batch: int, seqlen: int, dim: int, dstate: int, *, dtype: str = "float32") -> Work:
    mx.random.seed(0)
    kind = getattr(mx, dtype)
    inputs = {
        "u": mx.random.normal((batch, seqlen, dim)).astype(kind),
        "delta": (0.5 * mx.random.normal((batch, seqlen, dim))).astype(kind),
        "A": -mx.broadcast_to(mx.arange(1, dstate + 1, dtype=mx.float32), (dim, dstate)) + 0.0,
        "B": mx.random.normal((batch, seqlen, dstate)).astype(kind),
        "C": mx.random.normal((batch, seqlen, dstate)).astype(kind),
        "D": mx.ones((dim,)),
        "delta_bias": mx.random.uniform(-7, -2, (dim,)),
    }
    mx.eval(inputs)
    elements = float(batch * seqlen * dim * dstate)
    size = inputs["u"].itemsize
    moved = size * batch * seqlen * (3.0 * dim + 2.0 * dstate)
    case = Case("selective_scan", by(batch, seqlen, dim, dstate), dtype, flops=FLOPS * elements, moved=moved)
    both = Case(case.operator, case.shape, dtype, BOTH, flops=(FLOPS + FLOPS_BACKWARD) * elements, moved=3 * moved)
    channels = min(dim, CHECKED)

    def first(name: str, x: mx.array) -> np.ndarray:
        cut = to_numpy(x)[:1] if x.ndim == 3 else to_numpy(x)
        return cut if name in "BC" else cut[:channels] if cut.ndim < 3 else cut[..., :channels]

    def operands() -> dict[str, np.ndarray]:
        return {name: first(name, x) for name, x in inputs.items()}

    def expected_both() -> list[np.ndarray]:
        found = selective_scan_vjp_ref(
            **operands(),
            z=None,
            dy=first("dy", work.dy()),
            dlast_state=np.zeros((1, channels, dstate)),
            delta_softplus=True,
        )
        return [found.u, found.delta]

    work = Work(
        partial(gn.selective_scan, delta_softplus=True),
        inputs,
        case,
        both,
        expected=lambda: selective_scan_ref(**operands(), delta_softplus=True)[0],
        differentiable=tuple(inputs),
        expected_both=expected_both,
        part=lambda y: y[:1, :, :channels],
        part_both=lambda gradients: [gradients[0][:1, :, :channels], gradients[1][:1, :, :channels]],
    )
    return work
