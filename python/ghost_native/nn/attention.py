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
        window, nothing = mx.zeros((batch, self.stride, dim)), mx.zeros((batch, 0, dim))
        return AttentionState(
            window_k=window,
            window_v=window,
            recent_k=nothing,
            recent_v=nothing,
            strided_k=nothing,
            strided_v=nothing,
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
        if cu_seqlens is None and state["exact"]:
            return self.out(y), self._advance_alike(k, v, state)
        if cu_seqlens is None:
            bounds = x.shape[1] * np.arange(batch + 1)
            k, v = k.reshape(-1, k.shape[-1]), v.reshape(-1, v.shape[-1])
        else:
            bounds = np.array(cu_seqlens)
        return self.out(y), self._advance(k, v, bounds, state)

    def _advance_alike(self, k: mx.array, v: mx.array, state: AttentionState) -> AttentionState:
        """The state after new rows (batch, rows, dim) where every sequence stands at the same row: slices do."""
        stride, new_rows = self.stride, k.shape[1]
        new_state = AttentionState(**state)
        new_state["count"], new_state["seen"] = state["count"] + new_rows, state["seen"] + new_rows
        old: Any = state
        new: Any = new_state
        first = (-state["seen"] - 1) % stride
        for window, strided, rows in (("window_k", "strided_k", k), ("window_v", "strided_v", v)):
            last = rows if new_rows >= stride else mx.concatenate([old[window], rows], axis=1)
            new[window] = last[:, last.shape[1] - stride :]
            if first < new_rows:
                new[strided] = mx.concatenate([old[strided], rows[:, first::stride]], axis=1)
        return new_state

    def _advance(self, k: mx.array, v: mx.array, bounds: np.ndarray, state: AttentionState) -> AttentionState:
        """The state after new rows (total, dim), of which sequence b has bounds[b] to bounds[b + 1]."""
        stride, batch, dim = self.stride, len(bounds) - 1, k.shape[1]
        begins, lengths = bounds[:-1, None], np.diff(bounds)[:, None]
        # Known without waiting for the array where all sequences stand at the same row.
        count = state["seen"] if state["exact"] else np.array(state["count"])[:, None]
        seen, far = state["seen"] + int(lengths.max(initial=0)), state["strided_k"].shape[1]
        # Everything is a row of [old windows; old far rows; new rows].
        sequence = np.arange(batch)[:, None]
        fresh_from = batch * (stride + far) + begins
        newest = lengths + np.arange(stride)
        window_rows = np.where(newest < stride, sequence * stride + newest, fresh_from + newest - stride)
        # Far row m comes from the new rows if its number falls among them, else from the cache.
        number = np.arange(seen // stride)
        place = stride * number + stride - 1 - count
        cached = np.where(number < far, batch * stride + sequence * far + number, sequence * stride)
        far_rows = np.where((place >= 0) & (place < lengths), fresh_from + place, cached)
        wanted = mx.array(np.concatenate([window_rows, far_rows], axis=1).astype(np.int32))

        def kept(window: mx.array, strided: mx.array, rows: mx.array) -> tuple[mx.array, mx.array]:
            held = mx.concatenate([window.reshape(-1, dim), strided.reshape(-1, dim), rows])
            taken = mx.take(held, wanted, axis=0)
            return taken[:, :stride], taken[:, stride:]

        new_state = AttentionState(**state)
        new_state["window_k"], new_state["strided_k"] = kept(state["window_k"], state["strided_k"], k)
        new_state["window_v"], new_state["strided_v"] = kept(state["window_v"], state["strided_v"], v)
        new_state["count"] = state["count"] + mx.array(np.diff(bounds).astype(np.int32))
        new_state["seen"], new_state["exact"] = seen, False
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
