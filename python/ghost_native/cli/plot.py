"""`ghost-native plot`: the curves of training runs as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_native.cli import checkpoints, terminal
from ghost_native.cli.errors import CommandError
from ghost_native.cli.parser import Arguments, Parser, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DESCRIPTION = """\
Draw loss, bits per byte, throughput and memory of one or several training runs, one colour a run. Dots are scores of
held-out text. A run is the folder given to train as save_dir; a run still going can be drawn too."""

EXAMPLES = """\
ghost-native plot checkpoints/pretrain
ghost-native plot runs/ghost runs/transformer --against time --out both.png
ghost-native plot runs/* --smooth 0.95 --panels bpb throughput
"""

COLORS = ("#0b6e8f", "#b3541e", "#4d7c0f", "#7c3aed", "#be185d", "#92700c", "#475569", "#0f766e")
# Panel: title, key of the metrics, what to multiply by, whether held-out scores belong on it.
PANELS: dict[str, tuple[str, str, float, bool]] = {
    "loss": ("training loss (nats)", "loss", 1.0, False),
    "bpb": ("bits per byte", "bpb", 1.0, True),
    "throughput": ("throughput (thousand tokens/s)", "throughput", 1e-3, False),
    "memory": ("peak memory (GB)", "peak_memory_bytes", 1e-9, False),
    "rate": ("learning rate", "learning_rate", 1.0, False),
    "norm": ("gradient norm", "grad_norm", 1.0, False),
}
SHOWN = ("loss", "bpb", "throughput", "memory")
# What can stand below: its label, the key of the metrics.
AXES = {
    "step": ("step", "step"),
    "time": ("minutes", "elapsed_sec"),
    "tokens": ("million tokens", "tokens_processed"),
}
SCALES = {"step": 1.0, "time": 1 / 60, "tokens": 1e-6}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or its metrics.jsonl")
    parser.add_argument("--out", type=Path, default=Path("training.png"), metavar="FILE",
                        help="PNG, PDF or SVG to write (default %(default)s)")  # fmt: skip
    parser.add_argument("--against", choices=tuple(AXES), default="step", help="what stands below (default step)")
    parser.add_argument("--panels", nargs="+", choices=tuple(PANELS), default=SHOWN, metavar="PANEL",
                        help=f"of {', '.join(PANELS)} (default {' '.join(SHOWN)})")  # fmt: skip
    parser.add_argument("--smooth", type=number(float, 0, 0.999), default=0.9, metavar="X",
                        help="share of the running mean kept at a point; 0: raw numbers (default 0.9)")  # fmt: skip


def run(args: Arguments) -> int:
    from ghost_native.train.logs import read_metrics

    checkpoints.check_writable(args.out)
    runs = {str(path): read_metrics(path) for path in args.runs}
    for name, lines in runs.items():
        if not any(line["kind"] == "train" for line in lines):
            raise CommandError(f"{name} has logged no step yet")
    figure = draw(runs, args.panels, args.against, args.smooth)
    try:
        figure.savefig(args.out, dpi=110)
    except ValueError as error:
        raise CommandError(f"cannot write {args.out}: {error}") from None
    for name, lines in runs.items():
        terminal.rows([(name, last(lines))])
    terminal.rows([("drawn", f"{args.out}, {terminal.size(args.out.stat().st_size)}")])
    return 0


def last(lines: Sequence[dict[str, Any]]) -> str:
    """Where a run stands, in one line."""
    newest = [line for line in lines if line["kind"] == "train"][-1]
    scores = [line["bpb"] for line in lines if line["kind"] == "eval" and line.get("bpb") is not None]
    text = f"step {newest['step']:,}, loss {newest['loss']:.3f}" if newest.get("loss") is not None else ""
    return text + (f", best held-out {min(scores):.3f} bits per byte" if scores else "")


def draw(runs: dict[str, list[dict[str, Any]]], panels: Sequence[str], against: str, smooth: float) -> Figure:
    """The figure; `runs` maps a name to the lines of its metrics."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise CommandError("charts need matplotlib: pip install 'ghost-native[plot]'") from None
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 0.6 + 3.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    label, key = AXES[against]
    for axes, panel in zip(grid, panels, strict=False):
        title, name, scale, scored = PANELS[panel]
        for (run, lines), color in zip(runs.items(), COLORS * len(runs), strict=False):
            x, y = _points(lines, "train", key, name)
            axes.plot([SCALES[against] * v for v in x], smoothed([scale * v for v in y], smooth), color=color,
                      linewidth=1.2, label=run)  # fmt: skip
            if scored:
                x, y = _points(lines, "eval", key, name)
                axes.plot([SCALES[against] * v for v in x], [scale * v for v in y], "o", color=color, markersize=4)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel(label, fontsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", fontsize=8, frameon=False, ncols=2)
    return figure


def _points(lines: Sequence[dict[str, Any]], kind: str, x: str, y: str) -> tuple[list[float], list[float]]:
    """Two metrics of the lines that have both."""
    both = [line for line in lines if line["kind"] == kind and line.get(x) is not None and line.get(y) is not None]
    return [line[x] for line in both], [line[y] for line in both]


def smoothed(values: Sequence[float], keep: float) -> list[float]:
    """The exponential running mean, started without bias."""
    out: list[float] = []
    mean = weight = 0.0
    for value in values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        out.append(mean / weight)
    return out
