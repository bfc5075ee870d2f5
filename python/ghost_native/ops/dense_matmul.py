"""Matrix product with a dense weight."""

from __future__ import annotations

from typing import Literal

import mlx.core as mx

from ghost_native import _ext


def dense_matmul(
    x: mx.array,
    weight: mx.array,
    *,
    activation: Literal["float32", "bfloat16"] = "float32",
    stream: mx.Stream | mx.Device | None = None,
) -> mx.array:
    """``x @ weight.T``, with our own multi-threaded kernel on CPUs and ``mx.matmul`` on GPUs.

    The MLX wheels for Linux come with a reference BLAS that is 20 to 50 times slower than this on one core.

    Args:
        x: ``(..., K)``, float32, float16 or bfloat16.
        weight: ``(N, K)``, of any of these dtypes; or ``(..., N, K)`` for one product per leading index, x then being
            ``(..., M, K)`` with the same leading dimensions.
        activation: how CPUs multiply. "bfloat16" rounds both factors of this product and of its gradients to bfloat16,
            about 0.2 % off in half the time, where the CPU has instructions for it and all three sizes are 32 or more.
        stream: where to run.

    Returns:
        ``(..., N)`` in x's dtype. Sums are float32 and do not depend on the number of threads, bit for bit.

    Small products (up to 2**24 multiply-adds) of evaluated operands are computed in the call where the CPU is the
    default device and no other stream is given; all others when they are evaluated.

    Differentiable in x and weight to any order; gradients and their gradients run on the same kernel.

    Raises:
        ValueError: on a wrong shape or dtype, or another activation.

    The blocking is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008).
    """
    return _ext.dense_matmul(x, weight, activation=activation, stream=stream)
