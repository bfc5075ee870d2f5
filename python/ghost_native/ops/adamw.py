"""AdamW on all weights at once, and the norm of all gradients."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ghost_native import _ext


def adamw_update(
    parameters: Sequence[mx.array],
    gradients: Sequence[mx.array],
    m: Sequence[mx.array],
    v: Sequence[mx.array],
    rate: mx.array | float,
    step: mx.array | int,
    *,
    scale: mx.array | float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    stream: mx.Stream | mx.Device | None = None,
) -> tuple[list[mx.array], list[mx.array], list[mx.array]]:
    """One step of AdamW, with bias correction, on a list of arrays.

    Args:
        parameters, gradients, m, v: as many float32 arrays of each, of one shape where they belong together. Begin with
            zeros for the moments m and v.
        rate: learning rate, a number or an array of one element.
        step: number of this step, from 1; likewise.
        scale: factor of the gradients before all else, as clipping needs; likewise.
        betas: decay rates of m and v.
        eps: added to the root of v.
        weight_decay: share of the parameter taken off, times the rate.
        stream: where to run. On GPUs the operator is composed of MLX's own.

    Returns:
        The new parameters, m and v, in the memory of the old ones where those are not held elsewhere. Not meant to be
        differentiated through.

    Raises:
        ValueError: lists of different lengths, a wrong shape or dtype, or betas outside [0, 1).

    Loshchilov and Hutter, 2019, arXiv:1711.05101.
    """
    n = len(parameters)
    out = _ext.adamw_update(
        list(parameters), list(gradients), list(m), list(v), _scalar(rate), _scalar(step), _scalar(scale),
        beta1=betas[0], beta2=betas[1], eps=eps, weight_decay=weight_decay, stream=stream,
    )  # fmt: skip
    return out[:n], out[n : 2 * n], out[2 * n :]


def global_norm(arrays: Sequence[mx.array], *, stream: mx.Stream | mx.Device | None = None) -> mx.array:
    """Square root of the sum of squares of all elements of all arrays, float32 of shape (); 0 for no arrays.

    Arrays are float32, float16 or bfloat16. Differentiable on every device, by MLX's own operations.

    Raises:
        ValueError: on a wrong dtype.
    """
    return _ext.global_norm(list(arrays), stream=stream)


def _scalar(x: mx.array | float) -> mx.array:
    return x if isinstance(x, mx.array) else mx.array(float(x))
