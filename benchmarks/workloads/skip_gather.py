"""Routing a share of the rows: plan, gather, gated scatter."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

import ghost_native as gn
from benchmarks.measure import Case, by
from benchmarks.workloads.work import Work

SHAPES = [(16, 256, 256, 25), (16, 256, 512, 25)]  # batch, seqlen, dim, per cent of the rows


def routed(x: mx.array, mask: mx.array, gate: mx.array) -> mx.array:
    """Rows chosen by the mask become x + gate * (2 x - x); the product by two stands for a layer."""
    plan = gn.routing_plan(mask)
    rows = gn.skip_gather(x, plan)
    return gn.skip_scatter(x, 2 * rows, plan, mx.broadcast_to(gate, (rows.shape[0],)))


def make(batch: int, seqlen: int, dim: int, percent: int) -> Work:
    mx.random.seed(0)
    inputs = {
        "x": mx.random.normal((batch, seqlen, dim)),
        "mask": mx.random.uniform(shape=(batch, seqlen)) < percent / 100,
        "gate": mx.array(0.5),
    }
    mx.eval(inputs)
    x, mask = inputs["x"], inputs["mask"]
    rows = int(mask.sum().item())
    # x is copied once; the rows on the way are read and written by the gather, the layer and the scatter.
    moved = 2.0 * x.nbytes + 6.0 * rows * dim * 4
    case = Case("skip_gather + scatter", by(batch, seqlen, dim) + f" {percent} %", moved=moved)

    def scale() -> np.ndarray:
        return np.where(np.array(mask), 1.5, 1.0)[..., None]

    work = Work(
        routed,
        inputs,
        case,
        case.backward(moved=2 * moved),
        expected=lambda: work.numpy()["x"] * scale(),
        differentiable=("x", "gate"),
        expected_both=lambda: [np.array(work.dy(), np.float64) * scale()],
        part_both=lambda gradients: [gradients[0]],
    )
    return work
