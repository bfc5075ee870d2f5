"""Benchmarks: `pip install '.[bench]' && pytest benchmarks --benchmark-only`.

Operators are checked before they are timed; inputs are evaluated beforehand and results inside the timed call. Figures
are the minimum over many rounds: machines are shared, and noise only adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import ghost_native as gn

Timed = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cpu", "gpu"], default="cpu", help="where the benchmarks run (default: cpu)")


def pytest_configure(config: pytest.Config) -> None:
    mx.set_default_device(mx.gpu if config.getoption("--device") == "gpu" else mx.cpu)
    gn.tune_allocator()


def pytest_report_header(config: pytest.Config) -> str:
    features = gn.cpu_features()
    return (
        f"ghost_native {gn.__version__}: {features['isa']}, {features['threads']} threads, device {mx.default_device()}"
    )


@pytest.fixture
def timed(benchmark: Any) -> Timed:
    """timed(fn, flops=..., moved=...): runs and evaluates fn; rates of the fastest round go into the report."""

    def run(fn: Callable[[], Any], *, flops: float = 0.0, moved: float = 0.0, seconds: float = 1.0) -> None:
        mx.eval(fn())
        benchmark._max_time = seconds
        benchmark._min_rounds = 5
        benchmark(lambda: mx.eval(fn()))
        fastest = benchmark.stats.stats.min
        if flops:
            benchmark.extra_info["GFLOP/s"] = round(flops / fastest / 1e9, 1)
        if moved:
            benchmark.extra_info["GB/s"] = round(moved / fastest / 1e9, 1)

    return run
