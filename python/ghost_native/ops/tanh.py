"""Hyperbolic tangent."""

from __future__ import annotations

import mlx.core as mx

from ghost_native import _ext


def tanh(x: mx.array, *, stream: mx.Stream | mx.Device | None = None) -> mx.array:
    """``tanh(x)``, elementwise, in vectors and on all threads of a CPU.

    Args:
        x: any shape; float32, float16 or bfloat16. The arithmetic is float32.
        stream: where to run. On the CPU x's memory is reused when nothing else needs it.

    Returns:
        x's shape and dtype.

    Differentiable in x; x is all that is kept for the gradient.

    Raises:
        ValueError: on a wrong dtype.

    The polynomial for small x is that of Cephes (Moshier, 1989).
    """
    y: mx.array = _ext.tanh(x, stream=stream)
    return y
