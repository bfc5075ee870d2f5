"""Attention to a local window and to every stride-th row before it."""

from __future__ import annotations

import mlx.core as mx

from ghost_native import _ext


def sparse_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    window_k: mx.array,
    window_v: mx.array,
    far_k: mx.array,
    far_v: mx.array,
    count: mx.array,
    *,
    num_heads: int,
    stride: int,
    cu_seqlens: mx.array | None = None,
    stream: mx.Stream | mx.Device | None = None,
) -> mx.array:
    """Each row attends to the `stride` rows up to itself and to every `stride`-th row before those.

    Rows are numbered through all calls. Row n sees the rows n - d with d < stride, whose scores lose slope * d, and the
    earlier rows numbered stride - 1, 2 * stride - 1, ... at full score; the slope of head h is 2 ** (-8 (h + 1) /
    num_heads). Scores are scaled by head_dim ** -0.5. Time and memory are linear in seqlen for a bounded past: scores
    are held for some dozen rows at a time and computed anew for the gradients.

    Args:
        q, k, v: ``(batch, seqlen, dim)``, or ``(total, dim)`` with cu_seqlens; the heads lie side by side in dim.
        window_k, window_v: ``(batch, stride, dim)``, the rows before this call, newest last.
        far_k, far_v: ``(batch, far, dim)``, rows stride - 1, 2 * stride - 1, ... before this call. There must be at
            least ``count // stride``; further ones are not looked at.
        count: ``(batch,)`` integers, rows before this call. Of the window, rows that never were do not count.
        num_heads: a divisor of dim.
        stride: 1 or more.
        cu_seqlens: ``(batch + 1,)`` int32, boundaries of ragged sequences.
        stream: where to run. On GPUs the operator is composed of MLX's own, and cu_seqlens is evaluated.

    Floating-point operands are float32, float16 or bfloat16 and are computed with in float32.

    Returns:
        y like q. Rows of no sequence are zero.

    Differentiable in q, k, v and the state's keys and values.

    Raises:
        ValueError: on a wrong shape, dtype, num_heads or stride.

    The pattern is that of sparse transformers (Child et al., 2019, arXiv:1904.10509), the slopes are ALiBi's (Press et
    al., 2021, arXiv:2108.12409), and the softmax is never stored, as in FlashAttention (Dao et al., 2022,
    arXiv:2205.14135).
    """
    y: mx.array = _ext.sparse_attention(
        q, k, v, window_k, window_v, far_k, far_v, count,
        num_heads=num_heads, stride=stride, cu_seqlens=cu_seqlens, stream=stream,
    )  # fmt: skip
    return y
