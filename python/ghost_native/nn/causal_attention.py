"""Causal self-attention with rotary positions, and its cache of keys and values for streaming."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import mlx.core as mx
import numpy as np
from mlx import nn

from ghost_native import ops
from ghost_native.nn.linear import CodebookLinear, WeightMode

GROWTH = 256  # rows by which a cache grows


class Rotary(NamedTuple):
    """Cosines and sines (rows, head_dim / 2) of the angles of consecutive positions."""

    cos: mx.array
    sin: mx.array

    def rows(self, begin: int, end: int) -> Rotary:
        return Rotary(self.cos[begin:end], self.sin[begin:end])


def rotary_table(rows: int, head_dim: int, theta: float = 10000.0) -> Rotary:
    """The angles ``position * theta ** (-2 i / head_dim)`` of positions 0 to rows - 1, float32.

    Su et al., 2021, arXiv:2104.09864.
    """
    angles = np.arange(rows)[:, None] * theta ** (-np.arange(0, head_dim, 2) / head_dim)
    return Rotary(mx.array(np.cos(angles).astype(np.float32)), mx.array(np.sin(angles).astype(np.float32)))


def rotate(x: mx.array, rotary: Rotary) -> mx.array:
    """Turn each pair (i, i + head_dim / 2) of every head of x (batch, seqlen, dim) by its position's angle.

    The pairs are those of Llama and of ``mlx.core.fast.rope(traditional=False)``. Result like x.
    """
    batch, seqlen, dim = x.shape
    half = rotary.cos.shape[-1]
    pairs = x.reshape(batch, seqlen, dim // (2 * half), 2 * half)
    a, b = pairs[..., :half], pairs[..., half:]
    cos, sin = (table.astype(x.dtype)[:, None] for table in rotary)
    return mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(batch, seqlen, dim)


class KeyValues(TypedDict):
    """Keys, turned already, and values of a stream, (batch, capacity, dim); rows past the stream's end mean nothing."""

    k: mx.array
    v: mx.array


class CausalAttention(nn.Module):
    """Each row attends to itself and all rows before it, in heads lying side by side in dim.

    Args:
        dim: width of input and output.
        num_heads: a divisor of dim.
        mode: weight mode of the projections.
        out_scale: standard deviation of the initial output projection, in multiples of ``dim ** -0.5``.
    """

    def __init__(self, dim: int, num_heads: int, *, mode: WeightMode = "codebook", out_scale: float = 1.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = CodebookLinear(dim, dim, mode=mode)
        self.key = CodebookLinear(dim, dim, mode=mode)
        self.value = CodebookLinear(dim, dim, mode=mode)
        self.out = CodebookLinear(dim, dim, mode=mode, scale=out_scale * dim**-0.5)

    def init_state(self, batch: int, dtype: mx.Dtype = mx.float32) -> KeyValues:
        empty = mx.zeros((batch, 0, self.query_dim), dtype=dtype)
        return KeyValues(k=empty, v=empty)

    @property
    def query_dim(self) -> int:
        """Width of the queries of all heads together."""
        return int((self.query.codes if self.query.is_packed else self.query.weight).shape[0])

    def __call__(
        self, x: mx.array, rotary: Rotary, state: KeyValues | None = None, count: int = 0
    ) -> tuple[mx.array, KeyValues]:
        """x (batch, seqlen, dim) after `count` rows held in state; rotary has x's positions.

        Returns y like x, and the state with x's rows added.
        """
        q, k, v = rotate(self.query(x), rotary), rotate(self.key(x), rotary), self.value(x)
        if state is None:
            return self.out(attend(q, k, v, None, 0, self.num_heads)), KeyValues(k=k, v=v)
        # The new buffers alone are looked at: then nobody else holds the old ones, and rows are written in place.
        held = KeyValues(k=written(state["k"], k, count), v=written(state["v"], v, count))
        return self.out(attend(q, k, v, held, count, self.num_heads)), held


def written(buffer: mx.array, rows: mx.array, at: int) -> mx.array:
    """buffer (batch, capacity, ...) with rows (batch, seqlen, ...) from `at` on, grown where it is too short."""
    end = at + rows.shape[1]
    if end > buffer.shape[1]:
        missing = -(-end // GROWTH) * GROWTH - buffer.shape[1]
        buffer = mx.pad(buffer, [(0, 0), (0, missing)] + [(0, 0)] * (buffer.ndim - 2))
    return mx.slice_update(buffer, rows.astype(buffer.dtype), mx.array([at]), [1])


def attend(q: mx.array, k: mx.array, v: mx.array, past: KeyValues | None, count: int, num_heads: int) -> mx.array:
    """Causal attention of rows q, k, v (batch, seqlen, dim) that come after the first `count` rows of past.

    past holds the new rows too, from `count` on. Result like q. Differentiable in q, k, v and past.
    """
    attention = _attend_fused if mx.default_device() == mx.cpu else _attend_fast
    return attention(q, k, v, past, count, num_heads)


def _attend_fused(
    q: mx.array, k: mx.array, v: mx.array, past: KeyValues | None, count: int, num_heads: int
) -> mx.array:
    """`sparse_attention` of stride 1: every earlier row is a far one, and no score loses anything by distance.

    MLX's own attention goes through the reference BLAS and one thread on x86 CPUs, 20 times slower than this.
    """
    batch, _, dim = q.shape
    window = mx.zeros((batch, 1, dim), dtype=q.dtype)
    far = KeyValues(k=window[:, :0], v=window[:, :0]) if past is None else past
    rows = mx.full((batch,), count, dtype=mx.int32)
    return ops.sparse_attention(
        q, k, v, window, window, far["k"], far["v"], rows, num_heads=num_heads, stride=1
    )  # fmt: skip


def _attend_fast(q: mx.array, k: mx.array, v: mx.array, past: KeyValues | None, count: int, num_heads: int) -> mx.array:
    batch, seqlen, dim = q.shape
    if past is not None:
        k, v = past["k"][:, : count + seqlen].astype(q.dtype), past["v"][:, : count + seqlen].astype(q.dtype)
    q, k, v = (x.reshape(batch, x.shape[1], num_heads, dim // num_heads).swapaxes(1, 2) for x in (q, k, v))
    y = mx.fast.scaled_dot_product_attention(q, k, v, scale=(dim // num_heads) ** -0.5, mask="causal")
    return y.swapaxes(1, 2).reshape(batch, seqlen, dim)
