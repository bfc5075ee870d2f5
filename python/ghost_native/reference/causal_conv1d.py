"""NumPy float64 reference of the depthwise causal convolution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float, spans_of

Gradients = tuple[Float, Float, Float, Float]


def _sigmoid(x: Float) -> Float:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _sequence(x: Float, weight: Float, bias: Float, silu: bool, state: Float) -> tuple[Float, Float, Float]:
    """One sequence: output, pre-activation and the extended input [state; x]."""
    seqlen, width = len(x), weight.shape[1]
    extended = np.concatenate([state, x])
    pre = np.zeros_like(x) + bias
    for k in range(width):
        pre += extended[k : k + seqlen] * weight[:, k]
    return (pre * _sigmoid(pre) if silu else pre), pre, extended


def causal_conv1d_ref(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    activation: str | None = None,
    initial_state: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
) -> tuple[Float, Float]:
    """Output like x and last_state (batch, width - 1, dim); arguments as in ``ghost_native.causal_conv1d``."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    dim, width = weight.shape
    flat, spans = spans_of(x, cu_seqlens)
    bias = np.zeros(dim) if bias is None else np.asarray(bias, np.float64)
    shape = (len(spans), width - 1, dim)
    state = np.zeros(shape) if initial_state is None else np.asarray(initial_state, np.float64)
    y, last = np.zeros_like(flat), np.zeros(shape)
    for b, (begin, end) in enumerate(spans):
        y[begin:end], _, extended = _sequence(flat[begin:end], weight, bias, activation == "silu", state[b])
        last[b] = extended[end - begin :]
    return y.reshape(x.shape), last


def causal_conv1d_vjp_ref(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    dy: npt.ArrayLike,
    dlast_state: npt.ArrayLike,
    *,
    activation: str | None = None,
    initial_state: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
) -> Gradients:
    """Gradients dx, dweight, dbias, dinitial_state for the cotangents of both results."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    dim, width = weight.shape
    flat, spans = spans_of(x, cu_seqlens)
    dy = np.asarray(dy, np.float64).reshape(flat.shape)
    dlast = np.asarray(dlast_state, np.float64)
    bias = np.zeros(dim) if bias is None else np.asarray(bias, np.float64)
    state = np.zeros(dlast.shape) if initial_state is None else np.asarray(initial_state, np.float64)
    dx, dweight, dbias, dstate = np.zeros_like(flat), np.zeros_like(weight), np.zeros(dim), np.zeros(dlast.shape)
    for b, (begin, end) in enumerate(spans):
        seqlen = end - begin
        _, pre, extended = _sequence(flat[begin:end], weight, bias, activation == "silu", state[b])
        q = dy[begin:end].copy()
        if activation == "silu":
            s = _sigmoid(pre)
            q *= s * (1 + pre * (1 - s))
        dextended = np.zeros_like(extended)
        dextended[seqlen:] += dlast[b]
        for k in range(width):
            dextended[k : k + seqlen] += weight[:, k] * q
            dweight[:, k] += (q * extended[k : k + seqlen]).sum(0)
        dbias += q.sum(0)
        dstate[b] += dextended[: width - 1]
        dx[begin:end] += dextended[width - 1 :]
    return dx.reshape(x.shape), dweight, dbias, dstate
