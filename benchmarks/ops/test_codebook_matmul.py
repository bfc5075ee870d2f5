"""codebook_matmul in its shapes, codebooks and classes of accuracy."""

from __future__ import annotations

import pytest

from benchmarks.conftest import Timed
from benchmarks.workloads import codebook_matmul

SHAPES = codebook_matmul.SHAPES


@pytest.mark.parametrize("activation", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(timed: Timed, shape: tuple[int, int, int], activation: str) -> None:
    codebook_matmul.make(*shape, activation=activation).forward(timed)


@pytest.mark.parametrize("shape", codebook_matmul.GHOST_SHAPES, ids=str)
def test_training(timed: Timed, shape: tuple[int, int, int]) -> None:
    codebook_matmul.make_latent(*shape).both(timed)
