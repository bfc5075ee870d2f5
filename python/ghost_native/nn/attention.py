"""SparseAttention: a local window plus every stride-th earlier position, causal, with caches for streaming."""

from __future__ import annotations

from typing import TypedDict

import mlx.core as mx
import numpy as np
from mlx import nn

from ghost_native import ops
from ghost_native.nn.linear import CodebookLinear, WeightMode

_MASKED = -1e9


class AttentionState(TypedDict):
    """What one sequence carries. Everything is O(1) except the strided keys, one row per `stride` bytes.

    window_k, window_v (batch, stride, dim): the last rows, newest last; strided_k, strided_v (batch, capacity, dim):
    rows stride - 1, 2 * stride - 1, ... from the beginning; count (batch,) int32: rows seen; seen: an upper bound of
    it known without evaluating, which sizes the strided cache; exact: whether it is count, of every sequence.
    """

    window_k: mx.array
    window_v: mx.array
    strided_k: mx.array
    strided_v: mx.array
    count: mx.array
    seen: int
    exact: bool


class SparseAttention(nn.Module):
    """Each row attends to the `stride` rows up to itself and to every `stride`-th row before those.

    Rows are those routed to the layer, numbered within their sequence. Nearer rows of the window are favoured by a
    fixed slope per head (ALiBi; Press et al., 2021, arXiv:2108.12409); the pattern is that of strided sparse
    transformers (Child et al., 2019, arXiv:1904.10509).

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
        if cu_seqlens is None:
            batch, seqlen, _ = x.shape
            state = self.init_state(batch) if state is None else state
            y, state = self._attend(q, k, v, mx.full((batch,), seqlen, dtype=mx.int32), state)
            return self.out(y), state
        padding = _Padding(np.array(cu_seqlens), x.shape[0])
        state = self.init_state(padding.batch) if state is None else state
        state = AttentionState(**{**state, "exact": False})
        y, state = self._attend(padding.pad(q), padding.pad(k), padding.pad(v), padding.lengths, state)
        return self.out(padding.unpad(y)), state

    def _heads(self, x: mx.array) -> mx.array:
        """(..., rows, dim) to (..., heads, rows, head_dim)."""
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim).swapaxes(-2, -3)

    def _attend(
        self, q: mx.array, k: mx.array, v: mx.array, lengths: mx.array, state: AttentionState
    ) -> tuple[mx.array, AttentionState]:
        batch, seqlen, dim = q.shape
        stride, count = self.stride, state["count"]
        keys = mx.concatenate([state["window_k"], k], axis=1)
        values = mx.concatenate([state["window_v"], v], axis=1)
        new_state = self._advance(keys, values, lengths, state)
        if seqlen == 0:
            return q, new_state

        # Even blocks of at most `stride` queries, each with the `stride` rows before the block and the block itself.
        blocks = -(-seqlen // stride)
        size = -(-seqlen // blocks)
        pad = blocks * size - seqlen
        if pad:
            q, keys, values = (mx.pad(a, [(0, 0), (0, pad), (0, 0)]) for a in (q, keys, values))
        qh = self._heads(q.reshape(batch, blocks, size, dim)) * self.head_dim**-0.5
        kh, vh = self._heads(_windows(keys, blocks, size)), self._heads(_windows(values, blocks, size))
        local = ops.dense_matmul(qh, kh)  # (batch, blocks, heads, size, stride + size)
        local = local + self._near_bias(size)
        if not state["exact"] or state["seen"] < stride:
            # Column c of block b is row b * size + c - stride of this call; earlier ones exist once seen before.
            row = mx.array((np.arange(blocks)[:, None] * size + np.arange(stride + size) - stride).astype(np.int32))
            exists = count[:, None, None] + row >= 0
            local = local + mx.where(exists, 0.0, _MASKED)[:, :, None, None]

        # Far rows: row m of the cache is number m * stride + stride - 1, seen by queries at least `stride` later.
        far = new_state["strided_k"].shape[1]
        if far:
            # All blocks see the same far rows, so here they are one: (batch, heads, blocks * size, ...).
            def as_blocks(x: mx.array) -> mx.array:
                return x.reshape(batch, self.num_heads, blocks, size, -1).swapaxes(1, 2)

            def as_rows(x: mx.array) -> mx.array:
                return x.swapaxes(1, 2).reshape(batch, self.num_heads, blocks * size, -1)

            fk, fv = self._heads(new_state["strided_k"]), self._heads(new_state["strided_v"])
            number = mx.arange(far, dtype=mx.int32) * stride + stride - 1
            query = mx.array((np.arange(blocks)[:, None] * size + np.arange(size)).astype(np.int32))
            seen = number <= (count[:, None, None] + query - stride)[..., None]
            remote = as_blocks(ops.dense_matmul(as_rows(qh), fk)) + mx.where(seen, 0.0, _MASKED)[:, :, None]
            weights = mx.softmax(mx.concatenate([local, remote], axis=-1), axis=-1, precise=True)
            y = ops.dense_matmul(weights[..., : stride + size], vh.swapaxes(-1, -2))
            y = y + as_blocks(ops.dense_matmul(as_rows(weights[..., stride + size :]), fv.swapaxes(-1, -2)))
        else:
            y = ops.dense_matmul(mx.softmax(local, axis=-1, precise=True), vh.swapaxes(-1, -2))
        return y.swapaxes(-2, -3).reshape(batch, blocks * size, dim)[:, :seqlen], new_state

    def _near_bias(self, size: int) -> mx.array:
        """(heads, size, stride + size): what the distance from query i back to column c adds to the score."""
        distance = np.arange(size)[:, None] + self.stride - np.arange(self.stride + size)
        slopes = 2.0 ** -(8.0 / self.num_heads * np.arange(1, self.num_heads + 1))
        bias = np.where((distance >= 0) & (distance < self.stride), -slopes[:, None, None] * distance, _MASKED)
        return mx.array(bias.astype(np.float32))

    def _advance(self, keys: mx.array, values: mx.array, lengths: mx.array, state: AttentionState) -> AttentionState:
        """The state after `lengths` new rows; keys and values hold the window, then the new rows."""
        stride, count = self.stride, state["count"]
        new_rows = keys.shape[1] - stride
        seen = state["seen"] + new_rows
        kept = [state["strided_k"], state["strided_v"]]
        windows, strided = [], []
        if state["exact"]:
            # Every sequence stands at the same row: slices do.
            first = stride + (-state["seen"] - 1) % stride
            for rows, far in zip((keys, values), kept, strict=True):
                windows.append(rows[:, new_rows:])
                strided.append(mx.concatenate([far, rows[:, first::stride]], axis=1) if first < rows.shape[1] else far)
        else:
            newest = (lengths[:, None] + mx.arange(stride, dtype=mx.int32))[..., None]
            # Far row m comes from the new rows if its number falls among them, else from the cache.
            row = mx.arange(seen // stride, dtype=mx.int32) * stride + stride - 1 - count[:, None]
            fresh = ((row >= 0) & (row < lengths[:, None]))[..., None]
            index = mx.clip(row + stride, 0, keys.shape[1] - 1)[..., None]
            for rows, far in zip((keys, values), kept, strict=True):
                windows.append(mx.take_along_axis(rows, newest, axis=1))
                grown = mx.pad(far, [(0, 0), (0, seen // stride - far.shape[1]), (0, 0)])
                strided.append(mx.where(fresh, mx.take_along_axis(rows, index, axis=1), grown))
        return AttentionState(
            window_k=windows[0],
            window_v=windows[1],
            strided_k=strided[0],
            strided_v=strided[1],
            count=count + lengths,
            seen=seen,
            exact=state["exact"],
        )


def _windows(rows: mx.array, blocks: int, size: int) -> mx.array:
    """The rows each block of `size` queries may look at: (batch, blocks, stride + size, dim).

    rows (batch, stride + blocks * size, dim). Slices, not a gather, whose gradient would be a slow scatter.
    """
    batch, count, dim = rows.shape
    if blocks == 1:
        return rows[:, None]
    width = count - blocks * size + size
    if width == 2 * size:
        cut = rows.reshape(batch, blocks + 1, size, dim)
        return mx.concatenate([cut[:, :-1], cut[:, 1:]], axis=2)
    return mx.stack([rows[:, b * size : b * size + width] for b in range(blocks)], axis=1)


class _Padding:
    """Between ragged rows (total, dim) and padded ones (batch, longest, dim)."""

    def __init__(self, cu_seqlens: np.ndarray, total: int) -> None:
        begins, ends = cu_seqlens[:-1], cu_seqlens[1:]
        self.batch, lengths = len(begins), ends - begins
        longest = int(lengths.max(initial=0))
        offsets = np.arange(longest)
        inside = offsets < lengths[:, None]
        self._rows = mx.array(np.where(inside, begins[:, None] + offsets, total).astype(np.int32))
        self._cells = mx.array(np.flatnonzero(inside).astype(np.int32))
        self.lengths = mx.array(lengths.astype(np.int32))

    def pad(self, x: mx.array) -> mx.array:
        """Rows past the end of a sequence are zero."""
        return mx.concatenate([x, mx.zeros((1, x.shape[1]), dtype=x.dtype)])[self._rows]

    def unpad(self, x: mx.array) -> mx.array:
        return x.reshape(-1, x.shape[-1])[self._cells]
