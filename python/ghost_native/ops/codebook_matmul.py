"""Matrix products with two-bit codebook weights, their training form, and conversions."""

from __future__ import annotations

from typing import Literal

import mlx.core as mx

from ghost_native import _ext

Where = mx.Stream | mx.Device | None

# Lloyd-Max levels of a normal distribution with four levels (Max, 1960), where the search starts.
_NORMAL_LEVELS = (-1.5104, -0.4528, 0.4528, 1.5104)


def codebook_matmul(
    x: mx.array,
    codes: mx.array,
    codebook: mx.array,
    *,
    transpose: bool = True,
    activation: Literal["float32", "bfloat16", "int8"] = "float32",
    stream: Where = None,
) -> mx.array:
    """Multiply by a weight of two-bit codes: ``x @ W.T``, or ``x @ W`` with ``transpose=False``.

    ``W[n, k] = codebook[n, k // group_size, code(n, k)]``. The weight is never decoded as a whole.

    Args:
        x: ``(..., K)``, or ``(..., N)`` with ``transpose=False``. float32, float16 or bfloat16.
        codes: ``(N, K / 16)`` uint32, 16 codes to a word with the first in the low bits, which is the layout of
            ``mx.quantize(bits=2)``.
        codebook: ``(4,)`` for one codebook, ``(N, 1, 4)`` for one a row, ``(N, K / group_size, 4)`` for one a group
            with group_size 32, 64 or 128. float32, float16 or bfloat16.
        transpose: multiply by the transpose of W.
        activation: how a CPU multiplies; sums are float32 in every mode.

            - ``"float32"``: exact products.
            - ``"bfloat16"``: x and the codebook are rounded to bfloat16 first. Relative error (NRMSE) about 2.4e-3.
            - ``"int8"``: x is rounded to 255 steps of the largest magnitude in its row, and every codebook to 255
              steps of its own. NRMSE about 1e-2 for normal x, which must be finite.

            The rounding is part of the result: CPUs without instructions for a mode round alike and sum in float32.
            Metal kernels have nothing to gain and always compute ``"float32"``. Gradients are those of ``"float32"``.
        stream: where to run.

    Returns:
        ``(..., N)``, or ``(..., K)`` with ``transpose=False``, in x's dtype.

    Small products (up to 2**24 multiply-adds) of evaluated operands are computed in the call where the CPU is the
    default device and no other stream is given; all others when they are evaluated.

    Differentiable in x and codebook. The codebook's gradient does not materialise that of the weight.

    Raises:
        ValueError: on a wrong shape, dtype or activation.

    Non-uniform two-bit levels per row follow Lloyd (1982) and Max (1960); see :func:`codebook_quantize`.
    """
    return _ext.codebook_matmul(x, codes, codebook, transpose=transpose, activation=activation, stream=stream)


def codebook_matmul_latent(
    x: mx.array,
    weight: mx.array,
    codebook: mx.array,
    *,
    activation: str = "float32",
    half_levels: bool = False,
    stream: Where = None,
) -> mx.array:
    """:func:`codebook_matmul` for training: codes come from a latent weight, with straight-through gradients.

    In float32 the result equals ``codebook_matmul(x, codebook_assign(weight, codebook), codebook)`` bit for bit. In the
    backward pass the weight's gradient is that of the decoded weight, everywhere (no mask outside the outer levels),
    and the codebook's is its sum over equal codes; both, and x's, come from one primitive.

    Args:
        x: ``(..., K)`` float32, float16 or bfloat16.
        weight: ``(N, K)``, the latent weight, K a multiple of 16.
        codebook: ``(4,)``, ``(N, 1, 4)`` or ``(N, K / group_size, 4)``, as for :func:`codebook_matmul`.
        activation: ``"float32"``, or ``"bfloat16"`` to have CPUs with instructions for it round both factors of the
            three products, forward and backward, to bfloat16 (relative error of a product about 0.2 %) and take half
            the time. Sums stay float32. Other CPUs, GPUs and weights with a side below 32 compute as with
            ``"float32"``.
        half_levels: round the codebook to float16 before all else, as it is stored once packed. Its gradient passes
            unrounded, for it could overflow float16.
        stream: where to run.

    Returns:
        ``(..., N)`` in x's dtype.

    Differentiable in x, weight and codebook.

    Raises:
        ValueError: on a wrong shape or dtype.

    The straight-through estimator is that of Bengio et al. (2013, arXiv:1308.3432).
    """
    return _ext.codebook_matmul_latent(
        x, weight, codebook, activation=activation, half_levels=half_levels, stream=stream
    )


def codebook_assign(w: mx.array, codebook: mx.array, *, stream: Where = None) -> mx.array:
    """Codes of the nearest levels.

    Args:
        w: ``(N, K)``, K a multiple of 16.
        codebook: ``(4,)``, ``(N, 1, 4)`` or ``(N, K / group_size, 4)``, in any order of levels.
        stream: where to run.

    Returns:
        ``(N, K / 16)`` uint32. Distances are float32; of levels equally near the first is taken, for NaN level 0.

    Not differentiable: it passes zero gradients.

    Raises:
        ValueError: on a wrong shape or dtype.
    """
    return _ext.codebook_assign(w, codebook, stream=stream)


def codebook_dequantize(
    codes: mx.array, codebook: mx.array, dtype: mx.Dtype = mx.float32, *, stream: Where = None
) -> mx.array:
    """The weight ``(N, K)`` that codes ``(N, K / 16)`` and a codebook stand for.

    Args:
        codes: as for :func:`codebook_matmul`.
        codebook: as for :func:`codebook_matmul`.
        dtype: float32, float16 or bfloat16.
        stream: where to run.

    Differentiable in codebook.

    Raises:
        ValueError: on a wrong shape or dtype.
    """
    return _ext.codebook_dequantize(codes, codebook, dtype, stream=stream)


def bucket_sum(dw: mx.array, codes: mx.array, group_size: int | None = None, *, stream: Where = None) -> mx.array:
    """Sum the gradient of a weight over equal codes: the gradient of its codebook.

    Args:
        dw: ``(N, K)`` float32, float16 or bfloat16.
        codes: ``(N, K / 16)`` uint32.
        group_size: 32, 64 or 128, or None for one group a row.
        stream: where to run.

    Returns:
        ``(N, K / group_size, 4)`` float32, or ``(N, 1, 4)``; sum over the first two axes for a codebook ``(4,)``.

    Differentiable in dw.

    Raises:
        ValueError: on a wrong shape, dtype or group size.
    """
    columns = dw.shape[-1] if dw.ndim else 0
    return _ext.bucket_sum(dw, codes, _groups("bucket_sum", columns, group_size), stream=stream)


def codebook_from_affine(scales: mx.array, biases: mx.array, *, stream: Where = None) -> mx.array:
    """The codebook ``(N, K / group_size, 4)`` of weights made by ``mx.quantize(w, bits=2)``, whose codes serve as is.

    Args:
        scales: ``(N, K / group_size)``.
        biases: ``(N, K / group_size)``.
        stream: where to run.

    Differentiable in scales and biases.

    Raises:
        ValueError: on differing shapes.
    """
    if scales.ndim != 2 or scales.shape != biases.shape:
        raise ValueError(
            f"[codebook_from_affine] scales and biases have the wrong shapes, given {tuple(scales.shape)} and "
            f"{tuple(biases.shape)}, allowed: (N, K / group_size), both alike."
        )
    steps = mx.arange(4, dtype=scales.dtype, stream=stream)
    product = mx.multiply(mx.expand_dims(scales, -1, stream=stream), steps, stream=stream)
    return mx.add(product, mx.expand_dims(biases, -1, stream=stream), stream=stream)


def codebook_quantize(
    w: mx.array,
    group_size: int | None = None,
    *,
    per: Literal["row", "tensor"] = "row",
    iterations: int = 20,
    stream: Where = None,
) -> tuple[mx.array, mx.array]:
    """Find the four levels of least squared error by Lloyd's iteration, and the codes.

    Args:
        w: ``(N, K)`` float32, float16 or bfloat16, K a multiple of 16.
        group_size: 32, 64 or 128 for a codebook for every group of a row; None to go by ``per``.
        per: ``"row"`` or ``"tensor"``: what shares a codebook when there is no group_size.
        iterations: how often levels move to the mean of the weights nearest to them.
        stream: where to run.

    Returns:
        codes ``(N, K / 16)`` uint32 and a codebook ``(N, K / group_size, 4)``, ``(N, 1, 4)`` or ``(4,)`` in float32,
        levels ascending.

    Not differentiable.

    Raises:
        ValueError: on a wrong shape, dtype, group size or ``per``.

    Lloyd, "Least squares quantization in PCM" (1982); Max, "Quantizing for minimum distortion" (1960).
    """
    if per not in ("row", "tensor") or (per == "tensor" and group_size is not None):
        raise ValueError(
            f"[codebook_quantize] wrong per, given {per!r} with group_size {group_size}, allowed: 'row', or 'tensor' "
            "without a group_size."
        )
    if w.ndim != 2 or w.shape[1] % 16:
        raise ValueError(
            f"[codebook_quantize] w has the wrong shape, given {tuple(w.shape)}, allowed: (N, K), K a multiple of 16."
        )
    groups = _groups("codebook_quantize", w.shape[1], group_size)
    with mx.stream(stream) if stream is not None else mx.stream(mx.default_device()):
        weight = mx.stop_gradient(w.astype(mx.float32))
        shared = per == "tensor"

        def sums(values: mx.array, codes: mx.array) -> mx.array:
            total = _ext.bucket_sum(values, codes, groups)
            return total.sum(axis=(0, 1)) if shared else total

        grouped = weight.reshape(1, 1, -1) if shared else weight.reshape(w.shape[0], groups, w.shape[1] // groups)
        if grouped.size == 0:
            codebook = mx.zeros((4,) if shared else (w.shape[0], groups, 4))
        else:
            spread = mx.sqrt(mx.var(grouped, axis=-1, keepdims=True))
            codebook = mx.mean(grouped, axis=-1, keepdims=True) + spread * mx.array(_NORMAL_LEVELS)
            codebook = codebook.reshape(4) if shared else codebook
            ones = mx.ones_like(weight)
            for _ in range(iterations):
                codes = _ext.codebook_assign(weight, codebook)
                counts = sums(ones, codes)
                means = sums(weight, codes) / mx.maximum(counts, 1.0)
                codebook = mx.sort(mx.where(counts > 0, means, codebook), axis=-1)
                mx.eval(codebook)
        return _ext.codebook_assign(weight, codebook), codebook


def _groups(op: str, columns: int, group_size: int | None) -> int:
    if group_size is None:
        return 1
    if group_size not in (32, 64, 128) or columns % group_size or columns == 0:
        raise ValueError(
            f"[{op}] wrong group_size, given {group_size} for K = {columns}, allowed: None, or 32, 64, 128 dividing K."
        )
    return columns // group_size
