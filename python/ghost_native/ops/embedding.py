"""Embedding lookup with a deterministic gradient."""

from __future__ import annotations

import mlx.core as mx

from ghost_native import _ext


def embedding(weight: mx.array, tokens: mx.array, *, stream: mx.Stream | mx.Device | None = None) -> mx.array:
    """``weight[tokens]``.

    Args:
        weight: ``(vocab, dim)``; float32, float16 or bfloat16.
        tokens: ``(...)``, any integer dtype. A token that is not in 0 to vocab - 1 gives zeros and no gradient;
            negative tokens do not count from the end.
        stream: where to run.

    Returns:
        ``(..., dim)`` in weight's dtype.

    Differentiable in weight. The gradient is dense, summed in float32 in the order of the tokens: the same bits every
    time, whatever the number of threads.

    Raises:
        ValueError: on a wrong shape or dtype.
    """
    rows: mx.array = _ext.embedding(weight, tokens, stream=stream)
    return rows
