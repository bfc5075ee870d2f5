"""What benchmarks measured: read from pytest-benchmark, written as JSON, and compared with rivals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ghost_native.cli.errors import CommandError

OURS = "ghost_native"
SUITES = ("ops", "model", "peers", "scaling")
# FLOPs for a byte from which the arithmetic is what a rate is about, not the memory.
COMPUTE_BOUND = 4.0


@dataclass(frozen=True)
class Row:
    """One benchmark. Times are seconds of a run; `bound` is what the roofline allows at best."""

    operator: str
    shape: str
    dtype: str
    direction: str
    variant: str
    threads: int
    fastest: float
    median: float
    rounds: int
    flops: float = 0.0
    moved: float = 0.0
    items: float = 0.0
    bound: float = 0.0
    nrmse: float = 0.0
    axis: str = ""
    at: float = 0.0
    peak_mib: float = 0.0
    rss_mib: float = 0.0

    @property
    def work(self) -> tuple[str, str, str, str]:
        """What was done, whoever did it."""
        return self.operator, self.shape, self.dtype, self.direction

    @property
    def share(self) -> float:
        """Of the roofline, 0 to 1."""
        return self.bound / self.fastest

    def rate(self) -> str:
        """Bytes of text for a model, arithmetic or memory for an operator."""
        if self.items:
            return f"{significant(self.items / self.fastest)} bytes/s"
        if self.flops and self.flops >= COMPUTE_BOUND * self.moved:
            return f"{significant(self.flops / self.fastest / 1e9)} GFLOP/s"
        return f"{significant(self.moved / self.fastest / 1e9)} GB/s" if self.moved else ""


@dataclass(frozen=True)
class Line:
    """Ours beside those who did the same, the fastest first."""

    ours: Row
    rivals: tuple[Row, ...] = ()

    @property
    def ratio(self) -> float:
        """How many times longer the best rival took; 0 without one."""
        return self.rivals[0].fastest / self.ours.fastest if self.rivals else 0.0

    def name(self, rival: Row) -> str:
        """The rival, with its threads where they are not ours."""
        if rival.threads == self.ours.threads:
            return rival.variant
        return f"{rival.variant} ({rival.threads} thread{'s' * (rival.threads != 1)})"


@dataclass(frozen=True)
class Suite:
    """A run of one suite: the machine as `benchmarks/machine.py` describes it, and what was measured there."""

    name: str
    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def lines(self) -> list[Line]:
        return compare(self.rows)


def compare(rows: Sequence[Row]) -> list[Line]:
    """Rivals stand beside ours on as many threads, else beside ours on most threads."""
    found = []
    ours = [row for row in rows if row.variant == OURS]
    for row in ours:
        same = [other for other in ours if other.work == row.work]
        counts = {other.threads for other in same}
        rivals = [
            other
            for other in rows
            if other.variant != OURS
            and other.work == row.work
            and (other.threads == row.threads or (other.threads not in counts and row.threads == max(counts)))
        ]
        found.append(Line(row, tuple(sorted(rivals, key=lambda rival: rival.fastest))))
    return found


def from_pytest(name: str, path: Path) -> Suite:
    """The JSON of pytest-benchmark, with what `benchmarks/conftest.py` adds to it.

    What was timed more than once is the row of its fastest round.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    known = {f.name for f in fields(Row)}
    rows: dict[tuple[object, ...], Row] = {}
    for benchmark in found["benchmarks"]:
        extra, stats = benchmark["extra_info"], benchmark["stats"]
        if "operator" in extra:
            values = {key: value for key, value in extra.items() if key in known}
            row = Row(fastest=stats["min"], median=stats["median"], rounds=stats["rounds"], **values)
            same = (*row.work, row.variant, row.threads, row.axis, row.at)
            if same not in rows or row.fastest < rows[same].fastest:
                rows[same] = row
    return Suite(name, found["machine_info"].get("ghost_native", {}), list(rows.values()))


def save(suites: Iterable[Suite], path: Path) -> None:
    """All of it as JSON; :func:`load` reads it."""
    data = {suite.name: {"machine": suite.machine, "rows": [_compact(row) for row in suite.rows]} for suite in suites}
    path.write_text(json.dumps({"ghost_native benchmarks": 1, "suites": data}, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Suite]:
    """What :func:`save` wrote.

    Raises:
        CommandError: the file holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["suites"].items()
        return [Suite(name, suite["machine"], [Row(**row) for row in suite["rows"]]) for name, suite in found]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CommandError(f"{path} holds no results of ghost-native bench; remove it or name another") from None


def _compact(row: Row) -> dict[str, Any]:
    """Without what is absent, and figures as long as they mean something."""
    values = {key: value for key, value in asdict(row).items() if value not in (0.0, "")}
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in values.items()}


def significant(value: float) -> str:
    """Three digits: 0.0123, 1.23, 12.3, 1,234."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.4f}" if value < 1 else f"{value:.3f}" if value < 10 else f"{value:,.1f}"


def machine_facts(machine: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines about the machine: processor, BLAS, peaks and bandwidth by threads, versions."""
    facts = [
        ("processor", f"{machine.get('cpu', 'unknown')}, {machine.get('isa', 'unknown')} kernels"),
        ("system", str(machine.get("system", "unknown"))),
        ("threads", str(machine.get("threads", "unknown"))),
        ("BLAS of MLX", str(machine.get("blas", "unknown"))),
    ]
    for threads, measured in machine.get("rooflines", {}).items():
        peaks = [f"{significant(rate / 1e9)} GFLOP/s {kind}" for kind, rate in measured["peaks"].items() if rate]
        memory = f"{significant(measured['bandwidths'][-1][1] / 1e9)} GB/s from memory"
        name = f"peak, {threads} thread{'s' * (threads != '1')}"
        facts.append((name, ", ".join([*peaks, memory])))
    versions = machine.get("versions", {})
    facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return facts
