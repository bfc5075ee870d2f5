"""The operators around the products and the scan, forward and backward."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.conftest import Timed
from benchmarks.workloads import (
    causal_conv1d,
    cross_entropy,
    dense_matmul,
    embedding,
    gelu,
    rms_norm,
    skip_gather,
    sparse_attention,
)

OPERATORS = (
    causal_conv1d,
    skip_gather,
    sparse_attention,
    dense_matmul,
    rms_norm,
    gelu,
    embedding,
    cross_entropy,
)
CASES = [
    pytest.param(module, shape, id=f"{module.__name__.rpartition('.')[2]}-{shape}")
    for module in OPERATORS
    for shape in module.SHAPES
]


@pytest.mark.parametrize(("module", "shape"), CASES)
def test_forward(timed: Timed, module: ModuleType, shape: tuple[int, ...]) -> None:
    module.make(*shape).forward(timed)


@pytest.mark.parametrize(("module", "shape"), CASES)
def test_forward_and_backward(timed: Timed, module: ModuleType, shape: tuple[int, ...]) -> None:
    module.make(*shape).both(timed)
