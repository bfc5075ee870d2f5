"""NumPy float64 reference of two-bit codebook weights: packing, assignment, products and their gradients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ghost_native.reference.dense_matmul import dense_matmul_ref, dense_matmul_vjp_ref

Float = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint32]

CODES_PER_WORD = 16


def pack_ref(codes: npt.ArrayLike) -> Codes:
    """Codes (N, K) in 0..3 to words (N, K / 16), the first code of a word in its low bits."""
    codes = np.asarray(codes, np.uint32)
    runs = codes.reshape(codes.shape[0], codes.shape[1] // CODES_PER_WORD, CODES_PER_WORD)
    words = np.zeros(runs.shape[:2], np.uint32)
    for i in range(CODES_PER_WORD):
        words |= runs[:, :, i] << np.uint32(2 * i)
    return words


def unpack_ref(words: npt.ArrayLike) -> Codes:
    """The inverse of :func:`pack_ref`."""
    words = np.asarray(words, np.uint32)
    shifted = words[:, :, None] >> np.arange(0, 2 * CODES_PER_WORD, 2, dtype=np.uint32)
    return (shifted & np.uint32(3)).reshape(words.shape[0], words.shape[1] * CODES_PER_WORD)


def codebook_dequantize_ref(words: npt.ArrayLike, codebook: npt.ArrayLike) -> Float:
    """The weight (N, K) of words (N, K / 16) and a codebook (4,), (N, 1, 4) or (N, groups, 4)."""
    codes = unpack_ref(words)
    return np.take_along_axis(_levels(codebook, codes.shape), codes[:, :, None].astype(np.int64), 2)[:, :, 0]


def codebook_assign_ref(w: npt.ArrayLike, codebook: npt.ArrayLike) -> Codes:
    """Words of the nearest levels; of levels equally near the first."""
    w = np.asarray(w, np.float64)
    return pack_ref(np.argmin(np.abs(w[:, :, None] - _levels(codebook, w.shape)), axis=2))


def bucket_sum_ref(dw: npt.ArrayLike, words: npt.ArrayLike, groups: int) -> Float:
    """sums[n, g, c]: dw (N, K) summed over the columns of group g whose code is c."""
    dw, codes = np.asarray(dw, np.float64), unpack_ref(words)
    shape = (dw.shape[0], groups, dw.shape[1] // groups)
    dw, codes = dw.reshape(shape), codes.reshape(shape)
    return np.stack([np.where(codes == c, dw, 0.0).sum(2) for c in range(4)], axis=2)


def round_ref(x: npt.ArrayLike, activation: str) -> Float:
    """What a compute mode keeps of x: int8 rounds to 255 steps of the largest magnitude along the last axis."""
    x = np.asarray(x, np.float64)
    if activation == "bfloat16":
        bits = x.astype(np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return rounded.view(np.float32).astype(np.float64)
    if activation == "int8":
        step = (np.abs(x).max(-1, keepdims=True, initial=0.0) / 127.0).astype(np.float32)
        ratio = x.astype(np.float32) / np.where(step > 0, step, np.float32(1))
        return np.asarray(np.rint(ratio) * step, np.float64)
    return x


def codebook_matmul_ref(
    x: npt.ArrayLike,
    words: npt.ArrayLike,
    codebook: npt.ArrayLike,
    *,
    transpose: bool = True,
    activation: str = "float32",
) -> Float:
    """``x @ W.T``, or ``x @ W``; arguments as in ``ghost_native.codebook_matmul``."""
    weight = codebook_dequantize_ref(words, round_ref(codebook, activation))
    return dense_matmul_ref(round_ref(x, activation), weight if transpose else weight.T)


def codebook_matmul_vjp_ref(
    x: npt.ArrayLike, words: npt.ArrayLike, codebook: npt.ArrayLike, dy: npt.ArrayLike, *, transpose: bool = True
) -> tuple[Float, Float, Float]:
    """Gradients dx, dcodebook and that of the decoded weight, dweight (the latent weight's)."""
    weight = codebook_dequantize_ref(words, codebook)
    dx, dweight = dense_matmul_vjp_ref(x, weight if transpose else weight.T, dy)
    dweight = dweight if transpose else dweight.T
    codebook = np.asarray(codebook)
    if codebook.ndim == 1:
        return dx, bucket_sum_ref(dweight, words, 1).sum((0, 1)), dweight
    return dx, bucket_sum_ref(dweight, words, codebook.shape[1]), dweight


def _levels(codebook: npt.ArrayLike, shape: tuple[int, ...]) -> Float:
    """The four levels of every weight, (N, K, 4)."""
    codebook = np.asarray(codebook, np.float64)
    rows, columns = shape
    if codebook.ndim == 1:
        return np.broadcast_to(codebook, (rows, columns, 4))
    return np.repeat(codebook, columns // codebook.shape[1], axis=1)
