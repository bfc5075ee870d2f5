"""Depthwise causal convolution, channels last."""

from __future__ import annotations

from typing import Literal, overload

import mlx.core as mx

from ghost_native import _ext


@overload
def causal_conv1d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None = ...,
    *,
    activation: str | None = ...,
    initial_state: mx.array | None = ...,
    cu_seqlens: mx.array | None = ...,
    return_last_state: Literal[False] = ...,
    stream: mx.Stream | mx.Device | None = ...,
) -> mx.array: ...
@overload
def causal_conv1d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None = ...,
    *,
    activation: str | None = ...,
    initial_state: mx.array | None = ...,
    cu_seqlens: mx.array | None = ...,
    return_last_state: Literal[True],
    stream: mx.Stream | mx.Device | None = ...,
) -> tuple[mx.array, mx.array]: ...
def causal_conv1d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    *,
    activation: str | None = None,
    initial_state: mx.array | None = None,
    cu_seqlens: mx.array | None = None,
    return_last_state: bool = False,
    stream: mx.Stream | mx.Device | None = None,
) -> mx.array | tuple[mx.array, mx.array]:
    """Convolve every channel with its own short causal filter.

    ``y[t, d] = act(bias[d] + sum_k weight[d, k] * x[t - (width - 1) + k, d])``; rows before the sequence come from
    ``initial_state``, or are zero. Channels are last, unlike in the causal-conv1d package, which wants
    ``(batch, dim, seqlen)``.

    Args:
        x: ``(batch, seqlen, dim)``, or ``(total, dim)`` with ``cu_seqlens``. float32, float16 or bfloat16.
        weight: ``(dim, width)``, width 2 to 4; ``weight[:, -1]`` multiplies the current row.
        bias: ``(dim,)`` or None.
        activation: None or ``"silu"``.
        initial_state: ``(batch, width - 1, dim)``, the rows before the first; None for zeros.
        cu_seqlens: ``(batch + 1,)`` int32, rows ``cu_seqlens[b]`` to ``cu_seqlens[b + 1]`` are sequence ``b``.
            Boundaries must not decrease; rows of no sequence give zeros.
        return_last_state: also return the state to continue with.
        stream: where to run.

    Returns:
        ``y`` with x's shape and dtype, and with ``return_last_state`` also ``(batch, width - 1, dim)`` in x's dtype:
        the last rows of ``[initial_state; x]``. Sums are float32.

    Differentiable in x, weight, bias and initial_state, through both results.

    Raises:
        ValueError: on a wrong shape, dtype or activation.

    The short convolution of Mamba (Gu and Dao, 2023, arXiv:2312.00752, section 3.4).
    """
    y, last_state = _ext.causal_conv1d(
        x, weight, bias, activation=activation, initial_state=initial_state, cu_seqlens=cu_seqlens, stream=stream
    )
    return (y, last_state) if return_last_state else y


def causal_conv1d_update(
    x: mx.array,
    state: mx.array,
    weight: mx.array,
    bias: mx.array | None = None,
    *,
    activation: str | None = None,
    stream: mx.Stream | mx.Device | None = None,
) -> tuple[mx.array, mx.array]:
    """Advance :func:`causal_conv1d` by one row per sequence.

    Args:
        x: ``(batch, dim)``, the new row of each sequence.
        state: ``(batch, width - 1, dim)``, as returned by :func:`causal_conv1d` or by this function.
        weight, bias, activation, stream: as for :func:`causal_conv1d`.

    Returns:
        ``y`` ``(batch, dim)`` and the new state. MLX arrays do not change in place: keep the returned state.

    Differentiable in x, state, weight and bias.

    Raises:
        ValueError: on a wrong shape, dtype or activation.
    """
    if x.ndim != 2:
        raise ValueError(
            f"[causal_conv1d_update] x has the wrong shape, given {tuple(x.shape)}, allowed: (batch, dim)."
        )
    y, state = causal_conv1d(
        mx.expand_dims(x, 1, stream=stream),
        weight,
        bias,
        activation=activation,
        initial_state=state,
        return_last_state=True,
        stream=stream,
    )
    return mx.squeeze(y, 1, stream=stream), state
