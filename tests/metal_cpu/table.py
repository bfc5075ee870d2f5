"""The table of docs/metal_kernels.md: what every kernel moves and computes, and the time that this takes at least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.metal_cpu.budget import SEGMENTS_LIMIT, Buffer, Case, Launch, Recorded, family
from tests.metal_cpu.report import Report, Traffic


@dataclass(frozen=True)
class Gpu:
    name: str
    bytes_per_second: float
    float_operations_per_second: float


# Public figures of Apple (bandwidth) and of the usual count of cores x 128 lanes x 2 x clock (operations).
GPUS = (
    Gpu("M1", 68.25e9, 2.6e12),
    Gpu("M2 Max", 400e9, 13.6e12),
)

# Instructions that an operation of a class stands for, when the peak counts a fused multiply-add as two operations.
SLOTS = {"float": 0.5, "divide": 4, "transcendental": 4, "integer": 1, "select": 1, "convert": 1}
MATRIX_FLOPS = 2 * 8 * 8 * 8

INTRODUCTION = """# Metal kernels: traffic, operations and bounds

Written by `python -m tests.metal_cpu table` from launches of the emulated kernels. Nothing here was timed on a Mac.

- **loaded, stored**: bytes between device memory and SIMD-groups, summed over all instructions. A byte that several
  lanes of a SIMD-group load with one instruction counts once. They equal the formula of the kernel's budget
  (`tests/metal_cpu/budgets`) within 2 %, or the tests fail.
- **size**: bytes of the operand, the least that can be moved. More than that is re-read, from cache where the reason
  says so.
- **segments**: 64-byte segments touched over the fewest that hold the bytes of each instruction.
- **operations**: executed by all lanes, per element of the stated kind: float (a fused multiply-add counts two),
  transcendental (exp, log, ...), other (integers and addresses, comparisons and selections, conversions). Products of
  8 x 8 matrices are counted among the float ones. They are those of clang's code at -O1, which is not Apple's.
- **bound**: the least time on that GPU, the larger of two. Memory: every distinct 64-byte line once at full
  bandwidth. Operations: one instruction for a fused multiply-add and for any other operation, four for a division,
  square root or transcendental function, at the peak rate. The figures of the machines are public ones:
  {gpus}.

Most cases are small, and a launch takes longer than their bound; products of the size of a layer are the cases of
1024 x 1024. Traffic is a formula of the shape, which extrapolates to sizes beyond those emulated. It says that what
is read again does not fade with size: where every four rows of W read x, that is `s` times the bytes of the codes for
`s` bytes an element, from the cache, at every size.
"""


def bytes_text(n: float) -> str:
    for unit, size in (("MB", 1e6), ("KB", 1e3)):
        if n >= 10 * size:
            return f"{n / size:,.1f} {unit}"
    return f"{n:,.0f}"


def time_text(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def memory_bytes(report: Report) -> int:
    """Distinct lines of all buffers: what has to pass between memory and the GPU at least."""
    return sum(b.footprint_loaded + b.footprint_stored for b in report.buffers)


def instructions(traced: Report, counted: Report | None) -> float:
    matrix = traced.matrix_multiplies * MATRIX_FLOPS * SLOTS["float"]
    if counted is None:
        return matrix
    return matrix + sum(SLOTS[kind] * counted.operations[kind] for kind in SLOTS)


def bound(gpu: Gpu, traced: Report, counted: Report | None) -> tuple[float, str]:
    """Seconds at least, and what it is bound by."""
    memory = memory_bytes(traced) / gpu.bytes_per_second
    compute = instructions(traced, counted) / (gpu.float_operations_per_second / 2)
    return (memory, "memory") if memory >= compute else (compute, "operations")


def _per_unit(launch: Launch, traced: Report, counted: Report | None) -> str:
    unit, n = launch.per
    if counted is None:
        return f"{launch.ops:g} float per {unit}" if launch.ops is not None else "not counted"
    ops = counted.operations
    floats = ops["float"] + ops["divide"] + traced.matrix_multiplies * MATRIX_FLOPS
    other = ops["integer"] + ops["select"] + ops["convert"]
    return f"{floats / n:.2f} float, {ops['transcendental'] / n:.2f} transcendental, {other / n:.2f} other per {unit}"


def _buffer_row(index: int, buffer: Buffer | None, traffic: Traffic) -> str:
    name = buffer.name if buffer else "parameters"
    formula = bytes_text(buffer.loaded + buffer.stored) if buffer else ""
    size = bytes_text(buffer.size) if buffer else bytes_text(traffic.bytes)
    reasons = ["streamed"] if buffer and buffer.streamed else []
    if buffer and buffer.why:
        more = max(traffic.loaded, traffic.stored) > buffer.size or traffic.segments_ratio > SEGMENTS_LIMIT
        reasons += [buffer.why] * more
    reason = "; ".join(reasons)
    loaded, stored = bytes_text(traffic.loaded), bytes_text(traffic.stored)
    return f"| {index} | {name} | {loaded} | {stored} | {formula} | {size} | {traffic.segments_ratio:.2f} | {reason} |"


def launch_section(launch: Launch, traced: Report, counted: Report | None) -> list[str]:
    per_group = traced.threadgroups or 1
    lines = [
        f"**{launch.kernel}**: {traced.threadgroups:,} threadgroups of {traced.threads // per_group} threads, "
        f"{traced.threadgroup_bytes:,} bytes of threadgroup memory, {traced.barriers / per_group:g} barriers and "
        f"{traced.collectives / per_group:g} SIMD-group functions a threadgroup.",
        f"Operations: {_per_unit(launch, traced, counted)}.",
        "Bound: "
        + ", ".join(
            f"{gpu.name} {time_text(seconds)} ({what})"
            for gpu in GPUS
            for seconds, what in [bound(gpu, traced, counted)]
        )
        + ".",
        "",
        "| | buffer | loaded | stored | formula | size | segments | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for i, traffic in enumerate(traced.buffers):
        buffer = launch.buffers[i] if i < len(launch.buffers) else None
        if buffer is not None or traffic.loaded or traffic.stored:
            lines.append(_buffer_row(i, buffer, traffic))
    return [*lines, ""]


def summary_row(case: Case, launch: Launch, traced: Report, counted: Report | None) -> str:
    moved = sum(b.loaded + b.stored for b in traced.buffers[: len(launch.buffers)])
    least = sum(b.size * ((b.loaded > 0) + (b.stored > 0)) for b in launch.buffers)
    fetched = sum(b.load_segments + b.store_segments for b in traced.buffers)
    ideal = sum(b.load_segments_ideal + b.store_segments_ideal for b in traced.buffers)
    seconds, what = bound(GPUS[0], traced, counted)
    return (
        f"| {launch.kernel} | {case.name} | {bytes_text(moved)} | {moved / max(least, 1):.2f} | "
        f"{fetched / max(ideal, 1):.2f} | {traced.threadgroup_bytes:,} | {time_text(seconds)} ({what}) |"
    )


SUMMARY_HEAD = [
    "| kernel | case | moved | of the operands' size | segments | threadgroup memory | bound on M1 |",
    "|---|---|---|---|---|---|---|",
]


def document(
    results: Sequence[tuple[str, Case, Sequence[Recorded], Sequence[Recorded]]], everything: bool = False
) -> str:
    """Markdown of (operator, case, traced launches, counted launches).

    Every launch has a row; buffers are listed for the first launch of each kernel, dtypes apart, or of everything.
    """
    gpus = "; ".join(
        f"{g.name} {g.bytes_per_second / 1e9:g} GB/s and {g.float_operations_per_second / 1e12:g} TFLOP/s" for g in GPUS
    )
    lines = [INTRODUCTION.format(gpus=gpus)]
    for op in dict.fromkeys(op for op, *_ in results):
        summary, sections, shown = list(SUMMARY_HEAD), [], set()
        for _, case, traced, counted in (r for r in results if r[0] == op):
            listed = []
            for n, (launch, recorded) in enumerate(zip(case.launches, traced, strict=False)):
                of_operations = counted[n].report if n < len(counted) else None
                summary.append(summary_row(case, launch, recorded.report, of_operations))
                if everything or family(launch.kernel) not in shown:
                    listed += launch_section(launch, recorded.report, of_operations)
                shown.add(family(launch.kernel))
            if listed:
                sections += [f"### {case.name}", "", *listed]
        summary = list(dict.fromkeys(summary))  # the same sums of several operands are one row
        lines += [f"## {op}", "", *summary, "", *sections]
    return "\n".join(lines).rstrip() + "\n"
