"""The report of `ghost-native bench --report`: Markdown for each suite, charts, and the results themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ghost_native.cli import bench_charts, bench_results
from ghost_native.cli.bench_results import SUITES, Line, Row, Suite, milliseconds, significant

RESULTS = "results.json"
_FIGURE = re.compile(r"(\**[\d.,]+(e-\d+)?\**( (%|GFLOP/s|GB/s|bytes/s))?)?")
TITLES = {
    "ops": "Operators",
    "model": "Ghost v6 as a whole",
    "peers": "Beside other libraries",
    "scaling": "How time grows",
}
INTRODUCTIONS = {
    "ops": "Every operator at the shapes of language models and of Ghost, forward and with all gradients.",
    "model": "The default Ghost: dim 256, six layers, 2-bit weights. Rates are bytes of text in a second.",
    "peers": (
        "The same work on the same inputs in the same process, every result checked against the same reference. "
        "Classes of accuracy are compared within themselves: the dtype `int8` is products whose activations are "
        "rounded to eight bits, `float32` is exact."
    ),
    "scaling": "Time against size, batch, share of routed bytes and threads.",
}
EXPLANATION = """\
Times are milliseconds, the fastest round first: machines are shared, and noise only adds. The *roofline* is what the
machine can do at most, measured in the same run by loops that do nothing but multiply, or nothing but read: the time of
an operation is at least its arithmetic at the peak of its class, and at least its bytes at the bandwidth of the cache
or memory that so many bytes come from. An exponential counts as the 10 multiply-adds that it costs here. *Ratio* is the
time of the best rival over ours: above 1 we are faster.
"""


def write(suites: Sequence[Suite], folder: Path) -> None:
    """Write the report into the folder. Suites that were not measured now keep the figures of the report before."""
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / RESULTS
    known = {suite.name: suite for suite in bench_results.load(results)} if results.is_file() else {}
    known |= {suite.name: suite for suite in suites}
    found = [known[name] for name in SUITES if name in known]
    bench_results.save(found, results)
    charts = bench_charts.draw(found, folder)
    for suite in found:
        (folder / f"{suite.name}.md").write_text(_page(suite, charts), encoding="utf-8")
    (folder / "README.md").write_text(_front(found, charts), encoding="utf-8")


def _front(suites: Sequence[Suite], charts: Sequence[str]) -> str:
    parts = ["# Benchmarks\n", "Written by `ghost-native bench --report`; the figures are in "
             f"[{RESULTS}]({RESULTS}).\n", EXPLANATION]  # fmt: skip
    machines = {tuple(bench_results.machine_facts(suite.machine)[:4]): suite.machine for suite in suites}
    parts += [_machine(machine) for machine in machines.values()]
    rows = [
        [f"[{TITLES[suite.name]}]({suite.name}.md)", INTRODUCTIONS[suite.name].split(".")[0], _summary(suite)]
        for suite in suites
    ]
    parts.append(markdown(["suite", "what", "in short"], rows))
    parts += [f"![{_caption(chart)}]({chart})\n" for chart in charts]
    return "\n".join(parts)


def _summary(suite: Suite) -> str:
    lines = suite.lines()
    compared = [line for line in lines if line.rivals]
    if compared:
        ahead = sum(line.ratio >= 1 for line in compared)
        return f"ahead in {ahead} of {len(compared)} comparisons, {significant(_median(compared))}x at the median"
    return f"{len(lines)} measurements"


def _median(lines: Sequence[Line]) -> float:
    ratios = sorted(line.ratio for line in lines)
    return ratios[len(ratios) // 2]


def _caption(chart: str) -> str:
    return {"ratios.png": "Time of the best rival over ours", "roofline.png": "GFLOP/s against FLOPs for a byte",
            "scaling.png": "Time against size and threads"}[chart]  # fmt: skip


def _machine(machine: dict[str, Any]) -> str:
    return markdown(["machine", ""], [list(fact) for fact in bench_results.machine_facts(machine)])


def _page(suite: Suite, charts: Sequence[str]) -> str:
    parts = [f"# {TITLES[suite.name]}\n", INTRODUCTIONS[suite.name] + "\n", "[What the columns mean](README.md)\n"]
    parts.append(_machine(suite.machine))
    lines = suite.lines()
    parts.append(_table(lines))
    if memory := [row for row in suite.rows if row.rss_mib]:
        parts.append("## Memory\n\nAt most in a process of its own: arrays of MLX, and growth of the process.\n")
        parts.append(markdown(["operation", "shape", "by", "MLX, MiB", "process, MiB"], [
            [row.operator, row.shape, row.variant, f"{row.peak_mib:.0f}" if row.peak_mib else "", f"{row.rss_mib:.0f}"]
            for row in memory]))  # fmt: skip
    if routed := [row for row in suite.rows if row.axis == "routed share"]:
        parts.append(_routing(routed))
    if any(line.rivals for line in lines):
        parts.append("## Every rival\n")
        parts.append(_rivals(lines))
    wanted = {"peers": "ratios.png", "ops": "roofline.png", "scaling": "scaling.png"}.get(suite.name)
    if wanted in charts:
        parts.insert(3, f"![{_caption(str(wanted))}]({wanted})\n")
    return "\n".join(parts)


def _table(lines: Sequence[Line]) -> str:
    rivals = any(line.rivals for line in lines)
    header = ["operator", "shape", "dtype", "pass", "threads", "min, ms", "median, ms"]
    header += ["best rival", "ratio"] * rivals + ["rate", "% of roofline"]
    rows = []
    for line in lines:
        ours = line.ours
        row = [ours.operator, ours.shape, ours.dtype, ours.direction, str(ours.threads), milliseconds(ours.fastest),
               milliseconds(ours.median)]  # fmt: skip
        if rivals and line.rivals:
            row += [line.name(line.rivals[0]), f"**{significant(line.ratio)}**"]
        elif rivals:
            row += ["", ""]
        rows.append([*row, ours.rate(), f"{100 * ours.share:.0f}" if ours.bound else ""])
    return markdown(header, rows)


def _rivals(lines: Sequence[Line]) -> str:
    rows = []
    for line in lines:
        for row in (line.ours, *line.rivals) if line.rivals else ():
            name = row.variant if row is line.ours else line.name(row)
            ratio = significant(row.fastest / line.ours.fastest)
            rows.append([row.operator, row.shape, row.dtype, row.direction, name, milliseconds(row.fastest), ratio,
                         f"{row.nrmse:.1e}"])  # fmt: skip
    return markdown(["operator", "shape", "dtype", "pass", "by", "min, ms", "over ours", "error (NRMSE)"], rows)


def _routing(rows: Sequence[Row]) -> str:
    text = (
        "## Routed bytes\n\nA share of the bytes goes through all layers, the others through the first. *Routed "
        "layers* are all but that one, with what it takes to leave bytes out. *Work* is the arithmetic that remains; "
        "time in proportion to it would be 1.00 in the column after it.\n"
    )
    curves: dict[str, dict[float, Row]] = {}
    for row in rows:
        curves.setdefault(row.operator.partition(",")[0].removeprefix("ghost_v6 "), {})[row.at] = row
    header, table = ["routed"], [[f"{100 * at:.0f} %"] for at in sorted({row.at for row in rows}, reverse=True)]
    for name, curve in curves.items():
        if (full := curve.get(1.0)) is None or len(curve) < len(table):
            continue
        header += [f"{name}, ms", "work", "time over work"]
        for cells, at in zip(table, sorted(curve, reverse=True), strict=True):
            work = curve[at].flops / full.flops
            times = curve[at].fastest / full.fastest
            cells += [milliseconds(curve[at].fastest), f"{work:.2f}", f"{times / work:.2f}"]
    return text + "\n" + markdown(header, table) if len(header) > 1 else ""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; figures right, words left."""
    numeric = [all(_is_figure(row[i]) for row in rows) for i in range(len(header))]
    lines = [list(header), ["--:" if right else ":--" for right in numeric], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _is_figure(cell: str) -> bool:
    return _FIGURE.fullmatch(cell) is not None
