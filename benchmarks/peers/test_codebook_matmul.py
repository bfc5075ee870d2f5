"""Products with 2-bit weights, and with the dense weights that they replace.

Rivals compete within their class of arithmetic: float32, bfloat16 or int8 activations.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from tests.tolerances import to_numpy

from benchmarks.conftest import Timed
from benchmarks.measure import by
from benchmarks.peers import mlx_peer
from benchmarks.peers.extras import load
from benchmarks.workloads.codebook_matmul import ROWS, make, make_latent
from benchmarks.workloads.work import Work
from ghost_native.reference.codebook_matmul import codebook_dequantize_ref, unpack_ref

Shape = tuple[int, int, int]
SQUARES = [(M, K, K) for K in (256, 2048, 4096) for M in (1, 16, 256)]
SLOW_SQUARES = [(1, 256, 256), (1, 2048, 2048), (1, 4096, 4096)]  # MLX's own 2-bit product takes seconds beyond
TRAINING = [(4096, 1024, 256), (4096, 256, 1024)]
CLASSES = ["float32", "bfloat16", "int8"]

pytestmark = pytest.mark.usefixtures("turns")


def by_shape(shape: Shape) -> str:
    return by(*shape)


shapes = pytest.mark.parametrize("shape", SQUARES, ids=by_shape)
slow_shapes = pytest.mark.parametrize("shape", SLOW_SQUARES, ids=by_shape)
training_shapes = pytest.mark.parametrize("shape", TRAINING, ids=by_shape)


def dense_weight(work: Work) -> np.ndarray:
    """The weights (N, K) as float32."""
    codes, codebook = np.array(work["codes"]), to_numpy(work["codebook"])
    return codebook_dequantize_ref(codes, codebook).astype(np.float32)


def time_numpy(timed: Timed, work: Work, variant: str, run: Callable[[], np.ndarray]) -> None:
    timed(run, work.case.rival(variant), expected=work.expected, tolerance=work.tolerance, select=work.part,
          evaluate=None)  # fmt: skip


@shapes
@pytest.mark.parametrize("activation", CLASSES)
def test_ours(timed: Timed, shape: Shape, activation: str) -> None:
    make(*shape, activation=activation).forward(timed)


@shapes
@pytest.mark.parametrize(("accuracy_level", "activation"), [(0, "float32"), (4, "int8")])
def test_onnxruntime(timed: Timed, shape: Shape, accuracy_level: int, activation: str) -> None:
    """MatMulNBits has one scale for 128 weights instead of a codebook; codes and x are ours."""
    onnx, work = load("onnx_products"), make(*shape, activation=activation)
    codes = unpack_ref(np.array(work["codes"]))
    scales = np.random.default_rng(0).uniform(0.5, 1.5, (codes.shape[0], codes.shape[1] // onnx.GROUP))
    scales = scales.astype(np.float32)
    run, x = onnx.two_bit(codes, scales, accuracy_level), np.array(work["x"])
    timed(
        lambda: run(x),
        work.case.rival("onnxruntime MatMulNBits"),
        expected=lambda: x[:ROWS].astype(np.float64) @ onnx.decoded(codes, scales).T,
        tolerance=work.tolerance,
        select=work.part,
        evaluate=None,
    )


@shapes
def test_onnxruntime_dense(timed: Timed, shape: Shape) -> None:
    onnx, work = load("onnx_products"), make(*shape)
    run, x = onnx.dense(dense_weight(work)), np.array(work["x"])
    time_numpy(timed, work, "onnxruntime dense", lambda: run(x))


@shapes
def test_numpy_dense(timed: Timed, shape: Shape) -> None:
    work = make(*shape)
    weight, x = dense_weight(work).T, np.array(work["x"])
    with load("numpy_products").blas() as name:
        time_numpy(timed, work, f"numpy dense ({name})", lambda: x @ weight)


@shapes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_dense(timed: Timed, shape: Shape, dtype: str) -> None:
    peer, work = load("torch_peer"), make(*shape, activation=dtype)
    peer.use_threads()
    x, weight = peer.operand(work["x"], dtype), peer.operand(dense_weight(work), dtype)
    timed(
        lambda: peer.product(x, weight),
        work.case.rival("torch dense"),
        expected=work.expected,
        tolerance=work.tolerance,
        select=lambda y: work.part(y).float().numpy(),
        evaluate=None,
    )


@slow_shapes
def test_mlx_quantized_matmul(timed: Timed, shape: Shape) -> None:
    work = make(*shape)
    weight = mx.array(dense_weight(work))
    quantized = mx.quantize(weight, group_size=64, bits=2)
    mx.eval(quantized)
    timed(
        lambda: mx.quantized_matmul(work["x"], *quantized, group_size=64, bits=2),
        work.case.rival("mx.quantized_matmul"),
        expected=lambda: to_numpy(work["x"])[:ROWS] @ to_numpy(mx.dequantize(*quantized, group_size=64, bits=2)).T,
        tolerance=work.tolerance,
        select=work.part,
    )


@slow_shapes
def test_mlx_composed(timed: Timed, shape: Shape) -> None:
    work = make(*shape)
    work.forward(timed, "MLX composed form", mlx_peer.composed(work.function))


@shapes
def test_mlx_dense(timed: Timed, shape: Shape) -> None:
    """On whatever BLAS this process has."""
    work = make(*shape)
    x, weight = work["x"], mx.array(dense_weight(work)).T
    timed(lambda: x @ weight, work.case.rival("MLX dense"), expected=work.expected, tolerance=work.tolerance,
          select=work.part, min_rounds=2)  # fmt: skip


@training_shapes
def test_ours_latent_both(timed: Timed, shape: Shape) -> None:
    make_latent(*shape).both(timed)


@training_shapes
def test_torch_latent_both(timed: Timed, shape: Shape) -> None:
    """The same straight-through layer in PyTorch."""
    load("torch_peer").both(timed, make_latent(*shape), "torch straight-through", load("torch_ghost").latent_product)


@training_shapes
def test_mlx_composed_latent_both(timed: Timed, shape: Shape) -> None:
    work = make_latent(*shape)
    work.both(timed, "MLX composed form", mlx_peer.composed(work.function), min_rounds=2)
