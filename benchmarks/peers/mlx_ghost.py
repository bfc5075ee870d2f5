"""Ghost v6 composed of plain MLX operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx import nn

import ghost_native as gn
from benchmarks.workloads import ghost
from ghost_native import ops


def scan_loop(
    u: mx.array,
    delta: mx.array,
    A: mx.array,
    B: mx.array,
    C: mx.array,
    D: mx.array | None = None,
    z: mx.array | None = None,
    *,
    delta_bias: mx.array | None = None,
    delta_softplus: bool = False,
    initial_state: mx.array | None = None,
    cu_seqlens: mx.array | None = None,
    return_last_state: bool = False,
) -> Any:
    """`ops.selective_scan` one step at a time, for sequences of one length."""
    if cu_seqlens is not None:
        raise ValueError("[scan_loop] ragged sequences are not supported, given cu_seqlens, allowed: None.")
    dt = delta if delta_bias is None else delta + delta_bias
    dt = nn.softplus(dt) if delta_softplus else dt
    h = mx.zeros((u.shape[0], *A.shape)) if initial_state is None else initial_state
    ys = []
    for t in range(u.shape[1]):
        h = mx.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None]
        ys.append((h @ C[:, t, :, None])[..., 0])
    y = mx.stack(ys, 1)
    y = y if D is None else y + u * D
    y = y if z is None else y * nn.silu(z)
    return (y, h) if return_last_state else y


@contextmanager
def plain_mlx() -> Iterator[None]:
    """Models called inside are built of MLX's operations.

    The scan is a loop: the composed form's parallel prefix takes twice as long on a CPU.
    """
    before = ops.selective_scan
    ops.selective_scan = scan_loop  # type: ignore[assignment]
    try:
        with gn.composed_form():
            yield
    finally:
        ops.selective_scan = before


def plain(run: Callable[[], Any]) -> Callable[[], Any]:
    def inside() -> Any:
        with plain_mlx():
            return run()

    return inside


def training_run() -> Callable[[], Any]:
    """For benchmarks.memory."""
    step = plain(ghost.training_step(ghost.build(), ghost.text(ghost.BATCH, ghost.SEQLEN + 1)))
    return lambda: mx.eval(step())


def forward_run() -> Callable[[], Any]:
    """For benchmarks.memory."""
    model, tokens = ghost.build().pack(), ghost.text()
    run = plain(lambda: model(tokens))
    return lambda: mx.eval(run())
