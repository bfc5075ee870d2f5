"""Selective scan, the recurrence of Mamba, channels last."""

from __future__ import annotations

from typing import Literal, overload

import mlx.core as mx

from ghost_native import _ext


@overload
def selective_scan(
    u: mx.array,
    delta: mx.array,
    A: mx.array,
    B: mx.array,
    C: mx.array,
    D: mx.array | None = ...,
    z: mx.array | None = ...,
    *,
    delta_bias: mx.array | None = ...,
    delta_softplus: bool = ...,
    initial_state: mx.array | None = ...,
    cu_seqlens: mx.array | None = ...,
    return_last_state: Literal[False] = ...,
    stream: mx.Stream | mx.Device | None = ...,
) -> mx.array: ...
@overload
def selective_scan(
    u: mx.array,
    delta: mx.array,
    A: mx.array,
    B: mx.array,
    C: mx.array,
    D: mx.array | None = ...,
    z: mx.array | None = ...,
    *,
    delta_bias: mx.array | None = ...,
    delta_softplus: bool = ...,
    initial_state: mx.array | None = ...,
    cu_seqlens: mx.array | None = ...,
    return_last_state: Literal[True],
    stream: mx.Stream | mx.Device | None = ...,
) -> tuple[mx.array, mx.array]: ...
def selective_scan(
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
    stream: mx.Stream | mx.Device | None = None,
) -> mx.array | tuple[mx.array, mx.array]:
    """Run a linear recurrence whose decay and input depend on the data, one per channel and state.

    ``h[t] = exp(delta[t] * A) * h[t-1] + delta[t] * u[t] * B[t]``, then
    ``y[t] = (sum_n C[t, n] * h[t, :, n] + D * u[t]) * silu(z[t])``.

    **Channels are LAST.** mamba-ssm's function of the same name wants ``(batch, dim, seqlen)`` and
    ``(batch, dstate, seqlen)``; here they are ``(batch, seqlen, dim)`` and ``(batch, seqlen, dstate)``, as the layers
    around it have them. A square input of the wrong layout is not an error, it is a wrong result.

    Args:
        u: ``(batch, seqlen, dim)``, or ``(total, dim)`` with ``cu_seqlens``. float32, float16 or bfloat16.
        delta: step sizes, like u in shape and dtype.
        A: ``(dim, dstate)`` real, usually negative; dstate 1 to 256.
        B: ``(batch, seqlen, dstate)`` or ``(batch, seqlen, ngroups, dstate)``, ngroups dividing dim; channel ``d``
            uses group ``d // (dim // ngroups)``. ``(total, ...)`` with ``cu_seqlens``.
        C: like B.
        D: ``(dim,)`` or None, the skip connection.
        z: like u or None, the gate.
        delta_bias: ``(dim,)`` or None, added to delta.
        delta_softplus: replace delta (with its bias) by ``log(1 + exp(delta))``, linear above 20.
        initial_state: ``(batch, dim, dstate)``, the state before the first row; None for zeros.
        cu_seqlens: ``(batch + 1,)`` int32, rows ``cu_seqlens[b]`` to ``cu_seqlens[b + 1]`` are sequence ``b``.
            Boundaries must not decrease; rows of no sequence give zeros.
        return_last_state: also return the state to continue with.
        stream: where to run.

    Returns:
        ``y`` with u's shape and dtype, and with ``return_last_state`` also ``(batch, dim, dstate)`` float32.
        The state, decays and sums are float32 whatever the dtype of u.

    Differentiable in every float input, initial_state included, through both results, at the price of one saved
    state every 32 rows.

    Raises:
        ValueError: on a wrong shape or dtype.

    The selective scan of Mamba (Gu and Dao, 2023, arXiv:2312.00752, algorithm 2).
    """
    y, last_state = _ext.selective_scan(
        u, delta, A, B, C, D, z, delta_bias=delta_bias, delta_softplus=delta_softplus, initial_state=initial_state,
        cu_seqlens=cu_seqlens, stream=stream,
    )  # fmt: skip
    return (y, last_state) if return_last_state else y


def selective_state_update(
    state: mx.array,
    u: mx.array,
    delta: mx.array,
    A: mx.array,
    B: mx.array,
    C: mx.array,
    D: mx.array | None = None,
    z: mx.array | None = None,
    delta_bias: mx.array | None = None,
    delta_softplus: bool = False,
    *,
    stream: mx.Stream | mx.Device | None = None,
) -> tuple[mx.array, mx.array]:
    """Advance :func:`selective_scan` by one row per sequence.

    Args:
        state: ``(batch, dim, dstate)``, as returned by :func:`selective_scan` or by this function.
        u, delta, z: ``(batch, dim)``, the new row of each sequence.
        B, C: ``(batch, dstate)`` or ``(batch, ngroups, dstate)``.
        A, D, delta_bias, delta_softplus, stream: as for :func:`selective_scan`.

    Returns:
        ``y`` ``(batch, dim)`` in u's dtype and the new state in float32. MLX arrays do not change in place, unlike
        in mamba-ssm: keep the returned state.

    Differentiable in every float input, through both results.

    Raises:
        ValueError: on a wrong shape or dtype.
    """
    y, state = _ext.selective_state_update(
        state, u, delta, A, B, C, D, z, delta_bias=delta_bias, delta_softplus=delta_softplus, stream=stream
    )
    return y, state


@overload
def selective_scan_states(
    u: mx.array,
    delta: mx.array,
    A: mx.array,
    B: mx.array,
    C: mx.array,
    D: mx.array | None = ...,
    z: mx.array | None = ...,
    *,
    delta_bias: mx.array | None = ...,
    delta_softplus: bool = ...,
    initial_state: mx.array | None = ...,
    cu_seqlens: mx.array | None = ...,
    return_output: Literal[False] = ...,
    stream: mx.Stream | mx.Device | None = ...,
) -> mx.array: ...
@overload
def selective_scan_states(
    u: mx.array,
    delta: mx.array,
    A: mx.array,
    B: mx.array,
    C: mx.array,
    D: mx.array | None = ...,
    z: mx.array | None = ...,
    *,
    delta_bias: mx.array | None = ...,
    delta_softplus: bool = ...,
    initial_state: mx.array | None = ...,
    cu_seqlens: mx.array | None = ...,
    return_output: Literal[True],
    stream: mx.Stream | mx.Device | None = ...,
) -> tuple[mx.array, mx.array]: ...
def selective_scan_states(
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
    return_output: bool = False,
    stream: mx.Stream | mx.Device | None = None,
) -> mx.array | tuple[mx.array, mx.array]:
    """The state after every row of a short window, to roll back to when speculated rows are rejected.

    Args:
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, stream: as for
            :func:`selective_scan`.
        return_output: also return ``y``, from the same pass.

    Returns:
        ``states`` ``(batch, seqlen, dim, dstate)`` float32, or ``(total, dim, dstate)`` with ``cu_seqlens``;
        ``(y, states)`` with ``return_output``. Accepting ``k`` rows continues from ``states[:, k - 1]``.

    Memory grows with ``seqlen * dim * dstate``: meant for windows of tens of rows. Differentiable in every float
    input.

    Raises:
        ValueError: on a wrong shape or dtype.
    """
    y, states = _ext.selective_scan_states(
        u, delta, A, B, C, D, z, delta_bias=delta_bias, delta_softplus=delta_softplus, initial_state=initial_state,
        cu_seqlens=cu_seqlens, stream=stream,
    )  # fmt: skip
    return (y, states) if return_output else states
