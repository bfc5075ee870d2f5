"""What the kernels of an operator may load and store, as formulas of the shape, and whether they keep to it.

The budgets themselves are in ``budgets/<op>.py``: a list ``CASES``. A case builds operands of one shape, says how to
run the operator, and lists the launches that must follow with the bytes that each buffer of each launch moves. The
bytes are SIMD-unique: what the 32 lanes of a SIMD-group load with one instruction counts once per distinct byte.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from tests.metal_cpu.report import Report, Traffic
from tests.operators import vjp

HERE = Path(__file__).resolve().parent

FORMULA_TOLERANCE = 0.02
STREAMED_LIMIT = 1.05
SEGMENTS_LIMIT = 1.15
THREADGROUP_BYTES_LIMIT = 32768
# Metal copies up to this many bytes of arguments into a launch; such buffers are not traffic.
INLINE_BYTES = 4096
# Bytes of an element.
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


def ceil_div(n: int, by: int) -> int:
    return -(-n // by)


def gradients_of(
    call: Callable[[dict[str, mx.array]], list[mx.array]], operands: dict[str, mx.array]
) -> list[mx.array]:
    """Gradients of call in all its operands, with random cotangents."""
    cotangents = [mx.random.normal(v.shape).astype(v.dtype) for v in call(operands)]
    mx.eval(cotangents)
    names = list(operands)
    return vjp(lambda *values: call(dict(zip(names, values, strict=True))), list(operands.values()), cotangents)


@dataclass(frozen=True)
class Buffer:
    """One buffer of a launch, in the order of its index."""

    name: str
    loaded: int = 0
    stored: int = 0
    # Of the operand: what a streamed one may move in all.
    size: int = 0
    streamed: bool = False
    # The reason for moving more than the size, or for a limit of segments over the usual one.
    why: str = ""
    # 64-byte segments over the fewest that would hold the bytes.
    segments: float = SEGMENTS_LIMIT


@dataclass(frozen=True)
class Launch:
    kernel: str
    buffers: Sequence[Buffer]
    # What operations are counted per, in words, and how many of those there are.
    per: tuple[str, int] = ("launch", 1)
    # Float operations per unit, where they are known as a formula.
    ops: float | None = None


@dataclass(frozen=True)
class Case:
    name: str
    # Builds the operands and returns the lazy arrays to evaluate.
    run: Callable[[], Sequence[Any]]
    launches: Sequence[Launch] = field(default_factory=list)


class Recorded(Protocol):
    """A launch as it happened."""

    kernel: str
    groups: tuple[int, int, int]
    threads: tuple[int, int, int]
    report: Report


def cases(op: str | None = None) -> list[Case]:
    """The cases of all budgets, or of one operator's."""
    found: list[Case] = []
    for path in sorted((HERE / "budgets").glob("*.py")):
        if path.stem != "__init__" and op in (None, path.stem):
            found += importlib.import_module(f"tests.metal_cpu.budgets.{path.stem}").CASES
    return found


def family(kernel: str) -> str:
    """The name of a kernel without its dtype."""
    return re.sub(r"_(?:float32|float16|bfloat16)$", "", kernel)


def check(case: Case, launches: Sequence[Recorded]) -> list[str]:
    """Every deviation from the budget of a case, in words. None: the kernels do what is stated and no more."""
    deviations = []
    stated, happened = [s.kernel for s in case.launches], [r.kernel for r in launches]
    if stated != happened:
        deviations.append(f"{case.name}: launches {', '.join(happened) or 'nothing'}; stated {', '.join(stated)}")
    for n, (launch, recorded) in enumerate(zip(case.launches, launches, strict=False)):
        if launch.kernel == recorded.kernel:
            where = f"{case.name}: {launch.kernel} (launch {n + 1})"
            deviations += [f"{where}: {d}" for d in _check_launch(launch, recorded.report)]
    return deviations


def _check_launch(launch: Launch, report: Report) -> list[str]:
    deviations = []
    if report.faults:
        counts = ", ".join(f"{count} {kind}" for kind, count in report.faults.items())
        deviations.append(f"{counts}\n{report.messages}".rstrip())
    if report.threadgroup_bytes > THREADGROUP_BYTES_LIMIT:
        deviations.append(f"{report.threadgroup_bytes} bytes of threadgroup memory, the limit is 32768")
    for i, buffer in enumerate(launch.buffers):
        if i < len(report.buffers):
            deviations += [f"{buffer.name}: {d}" for d in _check_buffer(buffer, report.buffers[i])]
        elif buffer.loaded or buffer.stored:
            deviations.append(f"{buffer.name}: the launch binds no buffer {i}")
    for i, traffic in list(enumerate(report.buffers))[len(launch.buffers) :]:
        if traffic.bytes > INLINE_BYTES:
            deviations.append(f"buffer {i} of {traffic.bytes} bytes is not in the budget")
    return deviations


def _check_buffer(buffer: Buffer, traffic: Traffic) -> list[str]:
    deviations = []
    if buffer.segments > SEGMENTS_LIMIT and not buffer.why:
        deviations.append(f"a limit of {buffer.segments} times the segments and no reason is given")
    for verb in ("loaded", "stored"):
        formula, measured = getattr(buffer, verb), getattr(traffic, verb)
        if abs(measured - formula) > FORMULA_TOLERANCE * formula:
            deviations.append(f"{verb} {measured} bytes, the formula says {formula}")
        if buffer.streamed and measured > STREAMED_LIMIT * buffer.size:
            deviations.append(f"{verb} {measured} bytes, streamed once it would be {buffer.size}")
        if not (buffer.streamed or buffer.why) and measured > STREAMED_LIMIT * buffer.size:
            deviations.append(f"{verb} {measured} bytes of {buffer.size} and no reason is given")
    for verb in ("load", "store"):
        fetched, ideal = getattr(traffic, f"{verb}_segments"), getattr(traffic, f"{verb}_segments_ideal")
        if fetched > buffer.segments * ideal:
            deviations.append(
                f"{verb}s touch {fetched} segments of 64 bytes where {ideal} would do, "
                f"{fetched / ideal:.2f} times as many, the limit is {buffer.segments}"
            )
    return deviations
