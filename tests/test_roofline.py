"""Peaks and bandwidths that are measured, and the arithmetic of benchmarks with them."""

from __future__ import annotations

import math

import pytest
from benchmarks.measure import BOTH, OURS, Case, Roofline, check, plan, rates

import ghost_native as gn
from ghost_native import _ext

MACHINE = Roofline(
    {"float32": 100e9, "bfloat16": 400e9, "int8": None}, [(1 << 10, 90e9), (1 << 20, 99e9), (1 << 30, 10e9)]
)


@pytest.mark.usefixtures("isa")
def test_every_instruction_set_multiplies() -> None:
    assert gn.measure_peak(seconds=0.001) > 1e8
    for kind, isas in (("bfloat16", ["avx512_bf16"]), ("int8", ["avx512_vnni", "avx512_bf16"])):
        measured = gn.measure_peak(kind, seconds=0.001)
        assert (measured is None) == (_ext.isa() not in isas)
        assert measured is None or measured > 1e8
    assert gn.measure_bandwidth(1 << 16, seconds=0.001) > 1e8


def test_wrong_arguments() -> None:
    with pytest.raises(
        ValueError, match=r"\[measure_peak\] unknown kind, given 'int4', allowed: float32, bfloat16, int8"
    ):
        gn.measure_peak("int4")
    with pytest.raises(ValueError, match=r"\[measure_peak\] wrong time, given -1.*allowed: 0 to 60"):
        gn.measure_peak(seconds=-1)
    with pytest.raises(ValueError, match=r"\[measure_peak\] wrong time, given nan"):
        gn.measure_peak(seconds=math.nan)
    for size in (0, -5, 1 << 40):
        with pytest.raises(ValueError, match=rf"\[measure_bandwidth\] wrong size, given {size} bytes, allowed: "):
            gn.measure_bandwidth(size)


def test_bandwidth_is_that_of_the_level_and_never_less_than_of_a_larger_one() -> None:
    assert MACHINE.bandwidth(500) == MACHINE.bandwidth(5000) == 99e9  # the smaller level was measured slower
    assert MACHINE.bandwidth((1 << 30) - 1) == 99e9
    assert MACHINE.bandwidth(1 << 30) == MACHINE.bandwidth(1e12) == 10e9


def test_bound_is_the_later_of_arithmetic_and_memory() -> None:
    assert MACHINE.bound(Case("op", "1", flops=1e9, moved=99)) == pytest.approx(0.01)
    assert MACHINE.bound(Case("op", "1", flops=1e6, moved=2e9)) == pytest.approx(0.2)
    assert MACHINE.bound(Case("op", "1", flops=1e9, peak="bfloat16")) == pytest.approx(0.0025)
    assert MACHINE.bound(Case("op", "1", flops=1e9, peak="int8")) == pytest.approx(0.01)  # float32 stands in
    assert MACHINE.bound(Case("op", "1")) == 0.0


def test_rates() -> None:
    case = Case("op", "1", flops=4e9, moved=1e9, items=50)
    assert rates(case, 2.0, 0.5) == {"GFLOP/s": 2.0, "GB/s": 0.5, "bytes/s": 25.0, "% of roofline": 25.0}
    assert rates(Case("op", "1"), 2.0, 0.0) == {}


def test_variants_of_a_case() -> None:
    case = Case("op", "1x2", flops=1.0)
    assert case.variant == OURS and case.rival("torch", threads=1) == Case(
        "op", "1x2", variant="torch", threads=1, flops=1.0
    )
    assert case.backward(3.0).direction == BOTH and case.backward(3.0).flops == 3.0


def test_a_wrong_result_is_not_timed() -> None:
    assert check([1.0, 2.0], [1.0, 2.0], 0.0) == 0.0
    assert check([[1.0, 1.0]], [[1.1, 0.9]], 0.2) == pytest.approx(0.0995, rel=1e-3)
    with pytest.raises(AssertionError, match=r"NRMSE 1\.00e-01 over 1\.0e-05"):
        check([1.1], [1.0], 1e-5)
    with pytest.raises(AssertionError, match="1 results, expected 2"):
        check([1.0], [1.0, 2.0], 1.0)


def test_rounds_fill_the_time_with_calls_long_beside_the_clock() -> None:
    calls: list[int] = []
    rounds, iterations = plan(lambda: calls.append(0), 1e-9, 3)
    assert rounds == 3 and iterations > 10 and len(calls) > 10
    calls.clear()
    assert plan(lambda: calls.append(0), 0, 2) == (2, 1) and not calls  # a slow one is not called to find out
