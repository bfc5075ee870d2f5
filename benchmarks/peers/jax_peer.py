"""JAX on the CPU: selective scans compiled by XLA, and how they are timed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import ghost_native as gn

if gn.num_threads() == 1:  # read when JAX starts; otherwise it takes all cores
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workloads.work import Work

Array = jax.Array
Function = Callable[..., Array]


def forward(timed: Any, work: Work, variant: str, function: Function, **options: Any) -> None:
    """Check and time function(**inputs), compiled."""
    inputs = {name: jnp.asarray(np.array(x)) for name, x in work.inputs.items()}
    run = jax.jit(function)
    timed(
        lambda: run(**inputs),
        work.case.rival(variant),
        expected=work.expected,
        tolerance=work.tolerance,
        select=lambda y: np.array(work.part(y)),
        evaluate=jax.block_until_ready,
        **options,
    )


def both(timed: Any, work: Work, variant: str, function: Function, **options: Any) -> None:
    """Check and time function(**inputs) and its gradients, compiled."""
    inputs = {name: jnp.asarray(np.array(x)) for name, x in work.inputs.items()}
    names, dy = work.differentiable, jnp.asarray(np.array(work.dy()))

    @jax.jit
    def run(dy: Array, **values: Array) -> tuple[Array, ...]:
        held = {name: x for name, x in values.items() if name not in names}
        primals = [values[name] for name in names]
        _, pull = jax.vjp(lambda *xs: function(**held, **dict(zip(names, xs, strict=True))), *primals)
        gradients: tuple[Array, ...] = pull(dy)
        return gradients

    timed(
        lambda: run(dy, **inputs),
        work.case_both.rival(variant),
        expected=work.expected_both,
        tolerance=2 * work.tolerance,
        select=lambda gradients: [np.array(g) for g in work.part_both(gradients)],
        evaluate=jax.block_until_ready,
        **options,
    )


def _step(A: Array, h: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
    u, dt, B, C = row
    h = jnp.exp(dt[..., None] * A) * h + (dt * u)[..., None] * B[:, None]
    return h, jnp.einsum("bdn,bn->bd", h, C)


def lax_scan(u: Array, delta: Array, A: Array, B: Array, C: Array, D: Array, delta_bias: Array) -> Array:
    """One step at a time; XLA fuses each."""
    rows = tuple(x.swapaxes(0, 1) for x in (u, jax.nn.softplus(delta + delta_bias), B, C))
    _, y = jax.lax.scan(partial(_step, A), jnp.zeros((u.shape[0], *A.shape)), rows)
    return y.swapaxes(0, 1) + u * D


def lax_scan_checkpoints(u: Array, delta: Array, A: Array, B: Array, C: Array, D: Array, delta_bias: Array) -> Array:
    """Chunks of 32 steps that the backward pass computes again, as ours does; only their first states are kept."""
    chunk = 32
    rows = tuple(x.swapaxes(0, 1) for x in (u, jax.nn.softplus(delta + delta_bias), B, C))
    chunks = tuple(x.reshape(-1, chunk, *x.shape[1:]) for x in rows)

    @jax.checkpoint
    def run(h: Array, part: tuple[Array, ...]) -> tuple[Array, Array]:
        return jax.lax.scan(partial(_step, A), h, part)

    _, y = jax.lax.scan(run, jnp.zeros((u.shape[0], *A.shape)), chunks)
    return y.reshape(-1, *y.shape[2:]).swapaxes(0, 1) + u * D


def associative_scan(u: Array, delta: Array, A: Array, B: Array, C: Array, D: Array, delta_bias: Array) -> Array:
    """All states at once by parallel prefix."""
    dt = jax.nn.softplus(delta + delta_bias)
    decay, update = jnp.exp(dt[..., None] * A), (dt * u)[..., None] * B[:, :, None]
    _, h = jax.lax.associative_scan(lambda p, q: (q[0] * p[0], q[0] * p[1] + q[1]), (decay, update), axis=1)
    return jnp.einsum("btdn,btn->btd", h, C) + u * D
