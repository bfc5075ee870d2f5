"""selective_scan: the shapes of a Mamba layer and Ghost's."""

from __future__ import annotations

import pytest

from benchmarks.conftest import Timed
from benchmarks.workloads import selective_scan

GHOST = (16, 256, 256, 16)


@pytest.mark.parametrize("shape", [*selective_scan.SHAPES, GHOST], ids=str)
def test_forward(timed: Timed, shape: tuple[int, int, int, int]) -> None:
    selective_scan.make(*shape).forward(timed)


@pytest.mark.parametrize("shape", [*selective_scan.SHAPES, GHOST], ids=str)
def test_forward_and_backward(timed: Timed, shape: tuple[int, int, int, int]) -> None:
    selective_scan.make(*shape).both(timed)
