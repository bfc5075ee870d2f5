"""Root mean square normalization."""

from __future__ import annotations

import mlx.core as mx

from ghost_native import _ext


def rms_norm(
    x: mx.array, weight: mx.array, eps: float = 1e-5, *, stream: mx.Stream | mx.Device | None = None
) -> mx.array:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension.

    Args:
        x: ``(..., dim)``; float32, float16 or bfloat16. Sums are float32.
        weight: ``(dim,)``, any of those dtypes; used as float32.
        eps: added to the mean square, 0 or more.
        stream: where to run. On the CPU x's memory is reused when nothing else needs it.

    Returns:
        x's shape and dtype, also where weight has a wider one (``mlx.core.fast.rms_norm`` promotes).

    Differentiable in x and weight; nothing but x and weight is kept for the gradient.

    Raises:
        ValueError: on a wrong shape or dtype, or a negative eps.

    Zhang and Sennrich, 2019, arXiv:1910.07467.
    """
    y: mx.array = _ext.rms_norm(x, weight, eps, stream=stream)
    return y


def add_rms_norm(
    x: mx.array,
    residual: mx.array,
    weight: mx.array,
    eps: float = 1e-5,
    *,
    stream: mx.Stream | mx.Device | None = None,
) -> tuple[mx.array, mx.array]:
    """``h = x + residual`` and :func:`rms_norm` of h, as the blocks of a residual network need them.

    Args:
        x, residual: ``(..., dim)`` of one shape and dtype.
        weight, eps, stream: as for :func:`rms_norm`.

    Returns:
        h and its norm, both like x.

    Differentiable in x, residual and weight, through both results.

    Raises:
        ValueError: on a wrong shape or dtype, or a negative eps.
    """
    h, y = _ext.add_rms_norm(x, residual, weight, eps, stream=stream)
    return h, y
