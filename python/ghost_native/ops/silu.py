"""Sigmoid linear unit."""

from __future__ import annotations

import mlx.core as mx

from ghost_native import _ext


def silu(x: mx.array, *, stream: mx.Stream | mx.Device | None = None) -> mx.array:
    """``x * sigmoid(x)``, elementwise.

    Args:
        x: any shape; float32, float16 or bfloat16. The arithmetic is float32.
        stream: where to run. On the CPU x's memory is reused when nothing else needs it.

    Returns:
        x's shape and dtype.

    Differentiable in x; x is all that is kept for the gradient. ``mlx.nn.silu`` is the same function, compiled on the
    user's machine.

    Raises:
        ValueError: on a wrong dtype.

    Hendrycks and Gimpel, 2016, arXiv:1606.08415; Elfwing et al., 2017, arXiv:1702.03118.
    """
    y: mx.array = _ext.silu(x, stream=stream)
    return y
