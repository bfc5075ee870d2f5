"""The charts of the report, drawn with matplotlib (the `bench` extra)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ghost_native.cli.bench_results import Line, Row, Suite, significant

matplotlib.use("Agg")

DPI = 90
OURS_COLOR, RIVAL_COLOR, QUIET = "#0b6e8f", "#b3541e", "#777777"
COLORS = ("#0b6e8f", "#b3541e", "#4d7c0f", "#7c3aed", "#be185d", "#92700c", "#475569", "#0f766e", "#9f1239", "#1d4ed8")


def draw(suites: Sequence[Suite], folder: Path) -> list[str]:
    """Write the charts that the suites have figures for; the names of the files."""
    lines = [line for suite in suites for line in suite.lines()]
    compared = [line for line in lines if line.rivals]
    curves = _curves([row for suite in suites for row in suite.rows if row.axis])
    operators = [suite for suite in suites if suite.name == "ops"]
    drawn = {}
    if compared:
        drawn["ratios.png"] = _ratios(compared)
    if operators:
        drawn["roofline.png"] = _roofline(operators[0])
    if curves:
        drawn["scaling.png"] = _scaling(curves)
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=DPI, metadata={"Software": None})
    return list(drawn)


def _ratios(lines: Sequence[Line]) -> Figure:
    """Bars of the best rival's time over ours, on a logarithmic axis: to the right we are faster."""
    shown = sorted(lines, key=lambda line: line.ratio)
    figure = Figure(figsize=(9, 1.2 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    names = [" ".join((line.ours.operator, line.ours.shape, line.ours.dtype, line.ours.direction)) for line in shown]
    colors = [OURS_COLOR if line.ratio >= 1 else RIVAL_COLOR for line in shown]
    axes.barh(range(len(shown)), [line.ratio - 1 for line in shown], left=1, color=colors, height=0.7)
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    for at, line in enumerate(shown):
        text = f" {significant(line.ratio)}x {line.name(line.rivals[0])}"
        axes.text(max(line.ratio, 1), at, text, va="center", fontsize=6.5, color=QUIET)
    axes.margins(x=0.35, y=0.01)
    axes.set_xlabel("time of the best rival / time of ghost_native")
    _clean(axes)
    return figure


def _roofline(suite: Suite) -> Figure:
    """Operators under the bounds of all threads."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    threads, measured = max(suite.machine["rooflines"].items(), key=lambda item: int(item[0]))
    places = [10 ** (k / 20) for k in range(-40, 81)]  # FLOPs for a byte
    memory = measured["bandwidths"][-1][1]
    for (kind, peak), style in zip(measured["peaks"].items(), ("-", "--", ":"), strict=False):
        if peak:
            axes.plot(places, [min(peak, memory * x) / 1e9 for x in places], style, color="black", linewidth=1,
                      label=f"{kind}: {significant(peak / 1e9)} GFLOP/s")  # fmt: skip
    caches, peak = max(rate for _, rate in measured["bandwidths"]), measured["peaks"]["float32"]
    label = f"from the caches: {significant(caches / 1e9)} GB/s (memory {significant(memory / 1e9)})"
    axes.plot(places, [min(peak, caches * x) / 1e9 for x in places], color=QUIET, linewidth=0.7, label=label)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in suite.rows:
        if row.flops and row.moved and row.threads == int(threads):
            groups[row.operator.partition(",")[0]].append(row)
    for i, (operator, rows) in enumerate(groups.items()):
        axes.scatter([row.flops / row.moved for row in rows], [row.flops / row.fastest / 1e9 for row in rows], s=16,
                     color=COLORS[i % len(COLORS)], label=operator)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1)
    axes.set_xlabel("FLOPs for a byte that has to be moved")
    axes.set_ylabel(f"GFLOP/s, {threads} threads")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    _clean(axes)
    return figure


Curves = dict[str, dict[str, list[Row]]]


def _curves(rows: Sequence[Row]) -> Curves:
    """By axis, then by operator, in the order of the places on the axis."""
    found: Curves = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: row.at):
        name = row.operator.partition(",")[0] + ("" if row.direction == "forward" else ", " + row.direction)
        found[row.axis][name].append(row)
    return {axis: dict(curves) for axis, curves in found.items()}


def _scaling(curves: Curves) -> Figure:
    """A panel for each axis; dotted is in proportion to the work of the last point, or to the number of threads."""
    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(3.6 * columns, 3 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes, (axis, named) in zip(panels, curves.items(), strict=False):
        for i, (name, rows) in enumerate(named.items()):
            places, times = [row.at for row in rows], [1e3 * row.fastest for row in rows]
            work = [row.flops for row in rows] if axis == "routed share" else places
            color = COLORS[i % len(COLORS)]
            if axis == "threads":
                values, ideal = [times[0] / time for time in times], [at / places[0] for at in places]
            else:
                values, ideal = times, [times[-1] * amount / work[-1] for amount in work]
            axes.plot(places, values, "o-", color=color, markersize=3, linewidth=1.2, label=name)
            axes.plot(places, ideal, ":", color=color, linewidth=0.9)
        if axis not in ("threads", "routed share"):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            for scale in (axes.xaxis, axes.yaxis):
                scale.set_major_formatter(lambda value, _: f"{value:.3g}")
        elif axis == "threads":
            axes.set_xticks(sorted({row.at for rows in named.values() for row in rows}))
        axes.set_xlabel(axis)
        axes.set_ylabel("speed-up over one" if axis == "threads" else "ms")
        axes.legend(fontsize=6, frameon=False)
        _clean(axes)
    for axes in panels:
        axes.set_visible(False)
    return figure


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", linewidth=0.3, alpha=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
