"""The selective scan of a Mamba layer, softplus and skip included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    """Channels last; A, D and the bias of delta are float32 whatever the dtype of the sequences."""
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


def make_ragged(lengths: Sequence[int], dim: int, dstate: int) -> Work:
    """Sequences of different lengths in one array, as routing makes them; the first one is compared."""
    whole = make(1, sum(lengths), dim, dstate)
    inputs = {name: x[0] if x.ndim == 3 else x for name, x in whole.inputs.items()}
    inputs["cu_seqlens"] = mx.array(np.cumsum([0, *lengths]), dtype=mx.int32)
    mx.eval(inputs)

    def expected() -> np.ndarray:
        sequence = {
            name: x[: lengths[0]] if name in ("u", "delta", "B", "C") else x for name, x in work.numpy().items()
        }
        del sequence["cu_seqlens"]
        batched = {name: x[None] if name in ("u", "delta", "B", "C") else x for name, x in sequence.items()}
        return selective_scan_ref(**batched, delta_softplus=True)[0][0]

    shape = f"{len(lengths)} of {by(sum(lengths), dim, dstate)}"
    case = replace(whole.case, operator="selective_scan, ragged", shape=shape)
    work = replace(whole, inputs=inputs, case=case, expected=expected, part=lambda y: y[: lengths[0]])
    return work


def make_update(batch: int, dim: int, dstate: int) -> Work:
    """One step of a stream."""
    whole = make(batch, 1, dim, dstate)
    inputs = {"state": mx.random.normal((batch, dim, dstate))}
    inputs |= {name: x[:, 0] if x.ndim == 3 else x for name, x in whole.inputs.items()}
    mx.eval(inputs)
    state = 8.0 * batch * dim * dstate  # read and written
    case = replace(whole.case, operator="selective_state_update", shape=by(batch, dim, dstate),
                   moved=whole.case.moved + state)  # fmt: skip

    def expected() -> np.ndarray:
        operands = work.numpy()
        h = operands.pop("state")
        for name in ("u", "delta", "B", "C"):
            operands[name] = operands[name][:, None]
        return selective_scan_ref(**operands, initial_state=h, delta_softplus=True)[0][:, 0]

    work = replace(
        whole,
        function=partial(gn.selective_state_update, delta_softplus=True),
        inputs=inputs,
        case=case,
        expected=expected,
        part=lambda result: result[0],
    )
    return work
