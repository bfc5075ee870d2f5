"""What a benchmark measures: a case, its check against a reference, and rates from its times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter, sleep
from typing import Any

from tests.tolerances import nrmse

import ghost_native as gn
from ghost_native.cli.bench_results import OURS

MOST_ROUNDS = 20_000
FORWARD, BOTH = "forward", "forward+backward"
# NRMSE above which nothing is timed; of the class of arithmetic, so that rounding to eight bits may cost what it costs.
TOLERANCE = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2, "int8": 3e-2}


@dataclass(frozen=True)
class Case:
    """One line of the report. Cases that differ only in `variant` compete: rivals are compared with OURS.

    `flops` and `moved` (bytes) are what the operation needs at least, not what an implementation does; `items` are the
    bytes of text in a run of a model. `peak` names the arithmetic that bounds it: float32, bfloat16 or int8. `threads`
    are those of our kernels when None. `curve` is a point of a scaling curve: the axis and the place on it.
    """

    operator: str
    shape: str
    dtype: str = "float32"
    direction: str = FORWARD
    variant: str = OURS
    threads: int | None = None
    flops: float = 0.0
    moved: float = 0.0
    items: float = 0.0
    peak: str = "float32"
    curve: tuple[str, float] | None = None

    def rival(self, name: str, **changes: Any) -> Case:
        """The same work done by another program."""
        return replace(self, variant=name, **changes)

    def backward(self, flops: float = 0.0, moved: float = 0.0, **changes: Any) -> Case:
        """The same operation forward and backward; flops and moved are those of both together."""
        return replace(self, direction=BOTH, flops=flops, moved=moved, **changes)


def by(*sizes: int) -> str:
    """Sizes as the report writes them: `16x256x512`."""
    return "x".join(map(str, sizes))


def check(actual: Any, expected: Any, tolerance: float) -> float:
    """The largest NRMSE of the results; AssertionError when one is above the tolerance."""
    actual = list(actual) if isinstance(actual, (list, tuple)) else [actual]
    expected = list(expected) if isinstance(expected, (list, tuple)) else [expected]
    assert len(actual) == len(expected), f"{len(actual)} results, expected {len(expected)}"
    errors = [nrmse(a, e) for a, e in zip(actual, expected, strict=True)]
    worst = max(errors)
    assert worst <= tolerance, f"NRMSE {worst:.2e} over {tolerance:.1e} (of each result: {errors})"
    return worst


@contextmanager
def use_threads(n: int) -> Iterator[None]:
    """Our kernels on n threads."""
    before = gn.num_threads()
    gn.set_num_threads(n)
    try:
        yield
    finally:
        gn.set_num_threads(before)


def describe(case: Case, suite: str) -> dict[str, Any]:
    """The case as the report reads it."""
    found: dict[str, Any] = {
        "suite": suite,
        "operator": case.operator,
        "shape": case.shape,
        "dtype": case.dtype,
        "direction": case.direction,
        "variant": case.variant,
        "threads": case.threads,
        "flops": case.flops,
        "moved": case.moved,
        "items": case.items,
        "peak": case.peak,
    }
    if case.curve is not None:
        found["axis"], found["at"] = case.curve
    return found


def plan(call: Callable[[], Any], seconds: float, min_rounds: int, shortest: float = 5e-5) -> tuple[int, int]:
    """Rounds and calls of a round, so that all take about `seconds` and a round is long beside the clock."""
    if seconds == 0:  # what takes seconds itself is not called once more
        return min_rounds, 1
    begin = perf_counter()
    call()
    once = perf_counter() - begin
    iterations = 1
    if once < shortest:
        begin = perf_counter()
        for _ in range(20):
            call()
        once = (perf_counter() - begin) / 20
        iterations = max(1, round(shortest / once))
    return max(min_rounds, min(MOST_ROUNDS, int(seconds / (once * iterations)))), iterations


TRIES = 3  # of the peaks
LEVELS = tuple(1 << k for k in range(18, 29))  # bytes: from what a core's own cache holds to what none does


@dataclass(frozen=True)
class Roofline:
    """What the machine can do at most: operations a second of each kind, bytes a second by size of what is read."""

    peaks: Mapping[str, float | None]
    bandwidths: Sequence[tuple[int, float]]

    def peak(self, kind: str) -> float:
        """That of float32 where the CPU has no instruction of the kind."""
        return self.peaks.get(kind) or self.peaks["float32"] or 0.0

    def bandwidth(self, moved: float) -> float:
        """Of the largest level that is no larger: a bound that holds. Nothing larger is read faster than that."""
        smallest = self.bandwidths[0][0]
        level = max(size for size, _ in self.bandwidths if size <= max(moved, smallest))
        return max(rate for size, rate in self.bandwidths if size >= level)

    def bound(self, case: Case) -> float:
        """Seconds that the case takes at least: its arithmetic at the peak, or its bytes at their bandwidth."""
        computing = case.flops / self.peak(case.peak) if case.flops else 0.0
        moving = case.moved / self.bandwidth(case.moved) if case.moved else 0.0
        return max(computing, moving)


@cache
def roofline(threads: int) -> Roofline:
    """Measured once in a process for a number of threads, in some seconds.

    The best of several tries, with pauses: for a while a neighbour, or what ran before, may hold a core.
    """
    peaks: dict[str, float | None] = {}
    bandwidths = dict.fromkeys(LEVELS, 0.0)
    with use_threads(threads):
        for _ in range(TRIES):
            for kind in ("float32", "bfloat16", "int8"):
                found = gn.measure_peak(kind, seconds=0.08)
                peaks[kind] = max(found, peaks.get(kind) or 0.0) if found else None
            for size in LEVELS:
                bandwidths[size] = max(bandwidths[size], gn.measure_bandwidth(size, seconds=0.03))
            sleep(0.3)
    return Roofline(peaks, list(bandwidths.items()))


def rates(case: Case, seconds: float, bound: float) -> dict[str, float]:
    """What the report shows beside the time, for the quantities that the case states."""
    found = {}
    if case.flops:
        found["GFLOP/s"] = case.flops / seconds / 1e9
    if case.moved:
        found["GB/s"] = case.moved / seconds / 1e9
    if case.items:
        found["bytes/s"] = case.items / seconds
    if bound:
        found["% of roofline"] = 100 * bound / seconds
    return {name: float(f"{value:.4g}") for name, value in found.items()}
