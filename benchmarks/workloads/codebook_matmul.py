"""Two-bit products, packed for inference and latent for training."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import numpy as np
from tests.tolerances import to_numpy

import ghost_native as gn
from benchmarks.measure import BOTH, Case, by
from benchmarks.workloads.work import Work
from ghost_native.reference.codebook_matmul import codebook_dequantize_ref

SHAPES = [  # rows of x, columns of the result, columns of x
    (1, 256, 256),
    (1, 2048, 2048),
    (1, 4096, 4096),
    (16, 4096, 4096),
    (256, 4096, 4096),
]
GHOST_SHAPES = [(4096, 512, 256), (4096, 48, 512), (4096, 512, 16), (4096, 1024, 256), (4096, 256, 1024)]
ROWS = 16  # rows of results and of weight gradients that are compared
CODEBOOKS = ("tensor", "row", "group")


def make(
    M: int,
    N: int,
    K: int,
    *,
    activation: str = "float32",
    codebooks: str = "tensor",
    transpose: bool = True,
    dtype: str = "float32",
) -> Work:
    """Packed weights (N, K); x (M, K), or (M, N) when not transposed. `dtype` is that of x, `activation` the mode."""
    mx.random.seed(0)
    weight = mx.random.normal((N, K))
    levels = {"tensor": (), "row": (N, 1), "group": (N, K // 64)}[codebooks]
    codebook = mx.array([-1.5, -0.45, 0.45, 1.5]) * mx.random.uniform(0.8, 1.2, (*levels, 4))
    codes = gn.codebook_assign(weight, codebook)
    x = mx.random.normal((M, K if transpose else N)).astype(getattr(mx, dtype))
    mx.eval(x, codes, codebook)
    rows = min(M, ROWS)
    name = "codebook_matmul" if transpose else "codebook_matmul transposed"
    if codebooks != "tensor":
        name += f", codebook per {codebooks}"
    if dtype != "float32":
        name += f", {dtype} x"
    moved = x.nbytes + codes.nbytes + codebook.nbytes + x.itemsize * M * (N if transpose else K)
    case = Case(
        name,
        by(M, N, K),
        dtype if activation == "float32" else activation,
        flops=2.0 * M * N * K,
        moved=moved,
        peak=activation,
    )

    def dense() -> np.ndarray:
        levels = codebook_dequantize_ref(np.array(codes), to_numpy(codebook))
        return levels if transpose else levels.T

    def expected_both() -> list[np.ndarray]:
        return [to_numpy(work.dy())[:rows] @ dense()]

    work = Work(
        partial(gn.codebook_matmul, activation=activation, transpose=transpose),
        {"x": x, "codes": codes, "codebook": codebook},
        case,
        case.backward(6.0 * M * N * K, 2.0 * moved),
        expected=lambda: to_numpy(x)[:rows] @ dense().T,
        differentiable=("x", "codebook"),
        expected_both=expected_both,
        part=lambda y: y[:rows],
        part_both=lambda gradients: [gradients[0][:rows]],
    )
    return work


def make_latent(M: int, N: int, K: int) -> Work:
    """Float weights that the product sees through their codes, as in training."""
    mx.random.seed(0)
    x, weight = mx.random.normal((M, K)), mx.random.normal((N, K))
    codebook = mx.array([-1.5, -0.45, 0.45, 1.5])
    mx.eval(x, weight, codebook)
    codes = gn.codebook_assign(weight, codebook)
    rows = min(M, ROWS)
    moved = 4.0 * (M * K + N * K + M * N)
    case = Case("codebook_matmul_latent", by(M, N, K), flops=2.0 * M * N * K, moved=moved)

    def dense() -> np.ndarray:
        return codebook_dequantize_ref(np.array(codes), to_numpy(codebook))

    def expected_both() -> list[np.ndarray]:
        dy = to_numpy(work.dy())
        return [dy[:rows] @ dense(), dy[:, :ROWS].T @ to_numpy(x)]

    work = Work(
        gn.codebook_matmul_latent,
        {"x": x, "weight": weight, "codebook": codebook},
        case,
        Case("codebook_matmul_latent", by(M, N, K), direction=BOTH, flops=6.0 * M * N * K, moved=3 * moved),
        expected=lambda: to_numpy(x)[:rows] @ dense().T,
        differentiable=("x", "weight", "codebook"),
        expected_both=expected_both,
        part=lambda y: y[:rows],
        part_both=lambda gradients: [gradients[0][:rows], gradients[1][:ROWS]],
    )
    return work
