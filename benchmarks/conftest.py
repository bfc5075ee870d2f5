"""Benchmarks: `pip install '.[bench]' && pytest benchmarks --benchmark-only`, or `ghost-native bench`.

Every result is checked against a reference before it is timed; inputs are evaluated beforehand and results inside the
timed call. Figures are the minimum over many rounds: machines are shared, and noise only adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from time import sleep
from typing import Any

import mlx.core as mx
import pytest

import ghost_native as gn
from benchmarks.machine import machine
from benchmarks.measure import Case, check, describe, plan, rates, roofline, use_threads

Timed = Callable[..., None]
QUICK = 0.02  # share of the time that --quick spends
SETTLE = 0.25  # seconds: threads of OpenBLAS take a core for a tenth of a second after references and rivals


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cpu", "gpu"], default="cpu", help="where the benchmarks run (default: cpu)")
    parser.addoption("--quick", action="store_true", help="few rounds: figures are rough")


def pytest_configure(config: pytest.Config) -> None:
    mx.set_default_device(mx.gpu if config.getoption("--device") == "gpu" else mx.cpu)
    gn.tune_allocator()
    # A check that fails leaves the fixture unused; one failure is enough.
    config.addinivalue_line("filterwarnings", "ignore:Benchmark fixture was not used at all")


def pytest_report_header(config: pytest.Config) -> list[str]:
    found = machine()
    return [
        f"ghost_native {gn.__version__}: {found['isa']}, {found['threads']} threads, device {found['device']}",
        f"{found['cpu']}; BLAS: {found['blas']}",
    ]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    found = machine()
    machine_info["ghost_native"] = {
        **found,
        "rooflines": {n: asdict(roofline(n)) for n in sorted({1, int(found["threads"])})},
    }


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Threads of our kernels, given by `@pytest.mark.parametrize("threads", [1, 2], indirect=True)`."""
    with use_threads(request.param):
        yield request.param


@pytest.fixture
def timed(benchmark: Any, request: pytest.FixtureRequest) -> Timed:
    """timed(fn, case, expected=..., tolerance=...): checks what fn gives, then times it. See benchmarks/README.md."""

    def run(
        fn: Callable[[], Any],
        case: Case,
        *,
        expected: Any,
        tolerance: float,
        select: Callable[[Any], Any] = lambda result: result,
        evaluate: Callable[[Any], Any] | None = mx.eval,
        seconds: float = 0.5,
        min_rounds: int = 5,
        extra: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        finish = evaluate or (lambda result: result)

        def call() -> None:
            finish(fn())

        case = case if case.threads else replace(case, threads=gn.num_threads())
        result = fn()
        finish(result)
        error = check(select(result), expected() if callable(expected) else expected, tolerance)
        del result
        sleep(SETTLE)
        quick = request.config.getoption("--quick")
        rounds, iterations = plan(call, seconds * (QUICK if quick else 1.0), 2 if quick else min_rounds)
        benchmark.group = f"{case.operator} {case.shape} {case.dtype} {case.direction}"
        benchmark.pedantic(call, rounds=rounds, iterations=iterations, warmup_rounds=0)
        benchmark.extra_info.update(describe(case, request.node.path.parent.name), nrmse=error)
        if benchmark.stats is not None:  # there are none with --benchmark-disable
            bound = roofline(case.threads).bound(case)
            benchmark.extra_info.update(rates(case, benchmark.stats.stats.min, bound), bound=bound)
        if extra is not None:
            benchmark.extra_info.update(extra())

    return run
