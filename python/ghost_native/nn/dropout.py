"""Dropout that is told its random key, so that a pass computed again for its gradients drops the same values."""

from __future__ import annotations

import mlx.core as mx


def dropout(x: mx.array, rate: float, key: mx.array | None) -> mx.array:
    """Each value of x is zero with probability `rate`, else divided by ``1 - rate``; x itself without a key.

    Args:
        x: any shape, floating-point.
        rate: 0 to below 1.
        key: of `mx.random.key`; the same key drops the same values. None: nothing is dropped.

    Differentiable in x. Srivastava et al., 2014, JMLR 15.
    """
    if key is None or rate == 0:
        return x
    keep = mx.random.bernoulli(1 - rate, x.shape, key=key)
    return x * (keep.astype(x.dtype) * (1 / (1 - rate)))


def dropout_key() -> mx.array:
    """A key drawn from MLX's global generator."""
    return mx.random.randint(0, 1 << 31, (2,), dtype=mx.uint32)
