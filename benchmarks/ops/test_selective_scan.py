"""selective_scan: the shapes of Mamba layers and Ghost's, whole, ragged and step by step."""

from __future__ import annotations

import pytest

from benchmarks.conftest import Timed
from benchmarks.workloads import selective_scan

SHAPES = selective_scan.SHAPES
GHOST = SHAPES[0]
Shape = tuple[int, int, int, int]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(timed: Timed, shape: Shape) -> None:
    selective_scan.make(*shape).forward(timed)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(timed: Timed, shape: Shape) -> None:
    selective_scan.make(*shape).both(timed)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(timed: Timed, dtype: str) -> None:
    selective_scan.make(*GHOST, dtype=dtype).forward(timed)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_forward_and_backward(timed: Timed, dtype: str) -> None:
    selective_scan.make(*GHOST, dtype=dtype).both(timed)


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_forward_on_one_thread(timed: Timed, threads: int) -> None:
    selective_scan.make(*GHOST).forward(timed)


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_forward_and_backward_on_one_thread(timed: Timed, threads: int) -> None:
    selective_scan.make(*GHOST).both(timed)


def test_ragged(timed: Timed) -> None:
    selective_scan.make_ragged([37, 300, 1, 512, 129, 64, 5, 1000], 512, 16).forward(timed)


@pytest.mark.parametrize("batch", [1, 16])
def test_state_update(timed: Timed, batch: int) -> None:
    selective_scan.make_update(batch, 512, 16).forward(timed)
