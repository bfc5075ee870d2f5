"""NumPy float64 reference of strided sparse attention, with the whole score matrix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ghost_native.reference.sequences import Float


def _past(count: int, seqlen: int, stride: int, far: int) -> tuple[npt.NDArray[np.bool_], Float]:
    """Which columns [far rows of the cache; window; new rows] each query sees, and how far back they lie."""
    number = np.concatenate([np.arange(far) * stride + stride - 1, count + np.arange(-stride, seqlen)])
    query = (count + np.arange(seqlen))[:, None]
    distance = query - number
    cache = np.arange(number.size) < far
    new = np.arange(number.size) >= far + stride
    near = ~cache & (number >= 0) & (distance >= 0) & (distance < stride)
    strided = (number % stride == stride - 1) & (distance >= stride) & ((cache & (number < count)) | new)
    return near | strided, np.where(near, distance, 0.0)


def sparse_attention_ref(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    window_k: npt.ArrayLike,
    window_v: npt.ArrayLike,
    far_k: npt.ArrayLike,
    far_v: npt.ArrayLike,
    count: npt.ArrayLike,
    *,
    num_heads: int,
    stride: int,
) -> Float:
    """y (batch, seqlen, dim); operands as in `ghost_native.sparse_attention`, none of them ragged."""
    q, keys, values = _operands(q, k, v, window_k, window_v, far_k, far_v)
    y = np.zeros(q.shape)
    for b, part, p in _weights(q, keys, count, num_heads, stride):
        y[b][:, part] = p @ values[b][:, part]
    return y


def sparse_attention_vjp_ref(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    window_k: npt.ArrayLike,
    window_v: npt.ArrayLike,
    far_k: npt.ArrayLike,
    far_v: npt.ArrayLike,
    count: npt.ArrayLike,
    dy: npt.ArrayLike,
    *,
    num_heads: int,
    stride: int,
) -> tuple[Float, ...]:
    """dq, dk, dv, dwindow_k, dwindow_v, dfar_k, dfar_v."""
    far = np.shape(far_k)[1]
    q, keys, values = _operands(q, k, v, window_k, window_v, far_k, far_v)
    dy = np.asarray(dy, np.float64)
    dq, dkeys, dvalues = np.zeros(q.shape), np.zeros_like(keys), np.zeros_like(values)
    for b, part, p in _weights(q, keys, count, num_heads, stride):
        dp = dy[b][:, part] @ values[b][:, part].T
        ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / np.sqrt(q.shape[2] // num_heads)
        dq[b][:, part] = ds @ keys[b][:, part]
        dkeys[b][:, part] = ds.T @ q[b][:, part]
        dvalues[b][:, part] = p.T @ dy[b][:, part]
    dfar_k, dwindow_k, dk = np.split(dkeys, [far, far + stride], axis=1)
    dfar_v, dwindow_v, dv = np.split(dvalues, [far, far + stride], axis=1)
    return dq, dk, dv, dwindow_k, dwindow_v, dfar_k, dfar_v


def _operands(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    window_k: npt.ArrayLike,
    window_v: npt.ArrayLike,
    far_k: npt.ArrayLike,
    far_v: npt.ArrayLike,
) -> tuple[Float, Float, Float]:
    """Queries, all keys and all values of a sequence in one, in the order of `_past`."""
    keys = np.concatenate([np.asarray(x, np.float64) for x in (far_k, window_k, k)], axis=1)
    values = np.concatenate([np.asarray(x, np.float64) for x in (far_v, window_v, v)], axis=1)
    return np.asarray(q, np.float64), keys, values


def _weights(
    q: Float, keys: Float, count: npt.ArrayLike, num_heads: int, stride: int
) -> Iterator[tuple[int, slice, Float]]:
    """For every sequence and head: which sequence, the head's columns, the softmax (seqlen, all keys)."""
    seqlen, dim = q.shape[1:]
    width, far = dim // num_heads, keys.shape[1] - stride - seqlen
    for b, rows_before in enumerate(np.asarray(count).astype(np.int64).tolist()):
        seen, distance = _past(rows_before, seqlen, stride, far)
        for head in range(num_heads):
            part = slice(head * width, (head + 1) * width)
            slope = 2.0 ** (-8.0 * (head + 1) / num_heads)
            scores = q[b][:, part] @ keys[b][:, part].T / np.sqrt(width) - slope * distance
            scores = np.where(seen, scores, -np.inf)
            p = np.exp(scores - scores.max(-1, keepdims=True, initial=-1e300))
            yield b, part, p / p.sum(-1, keepdims=True)
