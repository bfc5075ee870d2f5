"""codebook_matmul in its shapes, codebooks and classes of accuracy."""

from __future__ import annotations

import pytest

from benchmarks.conftest import Timed
from benchmarks.workloads import codebook_matmul

SHAPES = codebook_matmul.SHAPES
LARGE = (256, 4096, 4096)
Shape = tuple[int, int, int]


@pytest.mark.parametrize("activation", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(timed: Timed, shape: Shape, activation: str) -> None:
    codebook_matmul.make(*shape, activation=activation).forward(timed)


@pytest.mark.parametrize("codebooks", ["row", "group"])
@pytest.mark.parametrize("shape", SHAPES[2:], ids=str)
def test_forward_by_codebooks(timed: Timed, shape: Shape, codebooks: str) -> None:
    codebook_matmul.make(*shape, codebooks=codebooks).forward(timed)


@pytest.mark.parametrize("shape", [SHAPES[0], *SHAPES[2:]], ids=str)
def test_transposed(timed: Timed, shape: Shape) -> None:
    codebook_matmul.make(*shape, transpose=False).forward(timed)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[3]], ids=str)
def test_half_precision(timed: Timed, shape: Shape, dtype: str) -> None:
    codebook_matmul.make(*shape, dtype=dtype).forward(timed)


@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.parametrize("activation", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2], LARGE], ids=str)
def test_forward_on_one_thread(timed: Timed, shape: Shape, activation: str, threads: int) -> None:
    codebook_matmul.make(*shape, activation=activation).forward(timed)


def test_packed_forward_and_backward(timed: Timed) -> None:
    """The gradients of x and of the codebook."""
    codebook_matmul.make(256, 2048, 2048).both(timed)


@pytest.mark.parametrize("shape", codebook_matmul.GHOST_SHAPES, ids=str)
def test_latent_forward(timed: Timed, shape: Shape) -> None:
    codebook_matmul.make_latent(*shape).forward(timed)


@pytest.mark.parametrize("shape", [*codebook_matmul.GHOST_SHAPES, (256, 2048, 2048)], ids=str)
def test_latent_forward_and_backward(timed: Timed, shape: Shape) -> None:
    codebook_matmul.make_latent(*shape).both(timed)
