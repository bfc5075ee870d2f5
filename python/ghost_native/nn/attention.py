"""SparseAttention: a local window plus every stride-th earlier position, causal, with caches for streaming."""

from __future__ import annotations

from typing import Any, TypedDict

import mlx.core as mx
import numpy as np
from mlx import nn

from ghost_native import ops
from ghost_native.nn.linear import CodebookLinear, WeightMode


class AttentionState(TypedDict):
    """What one sequence carries. Everything is O(1) except the strided keys, one row per `stride` bytes.

    window_k, window_v (batch, stride, dim): the last rows, newest last, but for the `few` very last, which are in
    recent_k, recent_v (batch, few, dim): a single step adds to these and seldom copies the window; strided_k, strided_v
    (batch, capacity, dim): rows stride - 1, 2 * stride - 1, ... from the beginning; count (batch,) int32: rows seen;
    seen: an upper bound of it known without evaluating, which sizes the strided cache; exact: whether it is count, of
    every sequence.
    """

    window_k: mx.array
    window_v: mx.array
    recent_k: mx.array
    recent_v: mx.array
    strided_k: mx.array
    strided_v: mx.array
    count: mx.array
    seen: int
    exact: bool


class SparseAttention(nn.Module):
    """Each row attends to the `stride` rows up to itself and to every `stride`-th row before those.

    Rows are those routed to the layer, numbered within their sequence. See `ghost_native.sparse_attention`.

    Args:
        dim: width of input and output.
        stride: size of the window and spacing of the far rows.
        head_dim: width of a head, at most dim and dividing it.
        mode: weight mode of the projections.
        num_layers: depth of the model, which scales the initial output projection.
    """

    def __init__(
        self, dim: int, *, stride: int = 128, head_dim: int = 64, mode: WeightMode = "codebook", num_layers: int = 1
    ) -> None:
        super().__init__()
        head_dim = min(head_dim, dim)
        if dim % head_dim:
            raise ValueError(f"[SparseAttention] dim must be a multiple of head_dim, given {dim} and {head_dim}.")
        self.stride, self.num_heads, self.head_dim = stride, dim // head_dim, head_dim
        self.query = CodebookLinear(dim, dim, mode=mode)
        self.key = CodebookLinear(dim, dim, mode=mode)
        self.value = CodebookLinear(dim, dim, mode=mode)
        self.out = CodebookLinear(dim, dim, mode=mode, scale=(2 * num_layers * dim) ** -0.5)

    def init_state(self, batch: int) -> AttentionState:
        dim = self.num_heads * self.head_dim
        return AttentionState(
            window_k=mx.zeros((batch, self.stride, dim)),
            window_v=mx.zeros((batch, self.stride, dim)),
            recent_k=mx.zeros((batch, 0, dim)),
            recent_v=mx.zeros((batch, 0, dim)),
            strided_k=mx.zeros((batch, 0, dim)),
            strided_v=mx.zeros((batch, 0, dim)),
            count=mx.zeros((batch,), dtype=mx.int32),
            seen=0,
            exact=True,
        )

    def __call__(
        self, x: mx.array, state: AttentionState | None = None, cu_seqlens: mx.array | None = None
    ) -> tuple[mx.array, AttentionState]:
        """x (batch, seqlen, dim), or (total, dim) with cu_seqlens (batch + 1,), which is then evaluated.

        Returns y like x, and the new state.
        """
        q, k, v = self.query(x), self.key(x), self.value(x)
        batch = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        state = self.init_state(batch) if state is None else _settled(state)
        y = ops.sparse_attention(
            q, k, v, state["window_k"], state["window_v"], state["strided_k"], state["strided_v"], state["count"],
            num_heads=self.num_heads, stride=self.stride, cu_seqlens=cu_seqlens,
        )  # fmt: skip
        if cu_seqlens is None:
            lengths = mx.full((batch,), x.shape[1], dtype=mx.int32)
        else:
            padding = _Padding(np.array(cu_seqlens), x.shape[0])
            k, v, lengths = padding.pad(k), padding.pad(v), padding.lengths
            state = AttentionState(**{**state, "exact": False})
        return self.out(y), self._advance(k, v, lengths, state)

    def _advance(self, k: mx.array, v: mx.array, lengths: mx.array, state: AttentionState) -> AttentionState:
        """The state after `lengths` of the new rows k and v (batch, rows, dim)."""
        stride, count, new_rows = self.stride, state["count"], k.shape[1]
        seen = state["seen"] + new_rows
        kept = [("window_k", "strided_k", k), ("window_v", "strided_v", v)]
        new_state: AttentionState = {**state, "count": count + lengths, "seen": seen}
        old: Any = state
        new: Any = new_state
        if state["exact"]:
            # Every sequence stands at the same row: slices do.
            first = (-state["seen"] - 1) % stride
            for window, strided, rows in kept:
                last = rows if new_rows >= stride else mx.concatenate([old[window], rows], axis=1)
                new[window] = last[:, last.shape[1] - stride :]
                if first < new_rows:
                    new[strided] = mx.concatenate([old[strided], rows[:, first::stride]], axis=1)
            return new_state
        newest = (lengths[:, None] + mx.arange(stride, dtype=mx.int32))[..., None]
        # Far row m comes from the new rows if its number falls among them, else from the cache.
        row = mx.arange(seen // stride, dtype=mx.int32) * stride + stride - 1 - count[:, None]
        fresh = ((row >= 0) & (row < lengths[:, None]))[..., None]
        for window, strided, rows in kept:
            both, far = mx.concatenate([old[window], rows], axis=1), old[strided]
            index = mx.clip(row + stride, 0, both.shape[1] - 1)[..., None]
            grown = mx.pad(far, [(0, 0), (0, seen // stride - far.shape[1]), (0, 0)])
            new[window] = mx.take_along_axis(both, newest, axis=1)
            new[strided] = mx.where(fresh, mx.take_along_axis(both, index, axis=1), grown)
        return new_state


def _settled(state: AttentionState) -> AttentionState:
    """The same state with its recent rows in the window."""
    few = state["recent_k"].shape[1]
    if few == 0:
        return state
    new_state = AttentionState(**state)
    new_state["window_k"] = mx.concatenate([state["window_k"][:, few:], state["recent_k"]], axis=1)
    new_state["window_v"] = mx.concatenate([state["window_v"][:, few:], state["recent_v"]], axis=1)
    new_state["recent_k"], new_state["recent_v"] = state["recent_k"][:, :0], state["recent_v"][:, :0]
    return new_state


class _Padding:
    """From ragged rows (total, dim) to padded ones (batch, longest, dim)."""

    def __init__(self, cu_seqlens: np.ndarray, total: int) -> None:
        begins, ends = cu_seqlens[:-1], cu_seqlens[1:]
        self.batch, lengths = len(begins), ends - begins
        longest = int(lengths.max(initial=0))
        offsets = np.arange(longest)
        inside = offsets < lengths[:, None]
        self._rows = mx.array(np.where(inside, begins[:, None] + offsets, total).astype(np.int32))
        self.lengths = mx.array(lengths.astype(np.int32))

    def pad(self, x: mx.array) -> mx.array:
        """Rows past the end of a sequence are zero."""
        return mx.concatenate([x, mx.zeros((1, x.shape[1]), dtype=x.dtype)])[self._rows]
