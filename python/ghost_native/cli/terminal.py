"""Printing: results to stdout, everything else to stderr, colours only on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console
from rich.table import Table
from rich.text import Text


def _console(stderr: bool) -> Console:
    return Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)


def out() -> Console:
    """The console of results."""
    return _console(stderr=False)


def err() -> Console:
    """The console of progress and remarks."""
    return _console(stderr=True)


def remark(text: str) -> None:
    """One dim line to stderr."""
    err().print(text, style="dim")


def heading(text: str) -> None:
    out().print()
    out().print(text, style="bold cyan")


def rows(pairs: Sequence[tuple[str, str | Text]]) -> None:
    """Names and values in two columns."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        out().print(Text.assemble((f"  {name:<{width}}  ", "dim"), value))


def scores(found: dict[str, float], unit: str = "bits per byte") -> None:
    """A small table of scores, the best one marked; lower is better."""
    best = min(found.values())
    table = Table(box=None, padding=(0, 2), show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_column()
    longest = max(found.values())
    for name, value in found.items():
        style = "bold green" if value == best else ""
        bar = "\u2588" * max(1, round(28 * value / longest)) if longest > 0 else ""
        table.add_row(Text(name, style), Text(f"{value:.3f} {unit}", style), Text(bar, style or "bright_black"))
    out().print(table)


def size(num_bytes: float) -> str:
    """12 B, 3.4 kB, 5.60 MB, 7.80 GB."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:.1f} kB"
    return f"{num_bytes / 1e6:.2f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.2f} GB"


def rate(bytes_per_second: float) -> str:
    return f"{size(bytes_per_second)}/s"


def duration(seconds: float) -> str:
    """4.2 s, 3 min 05 s, 7 h 10 min, 3 days 4 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, minutes = int(seconds) // 3600, int(seconds) // 60 % 60
    if hours >= 48:
        return f"{hours // 24} days {hours % 24} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"


def plural(count: int, noun: str) -> str:
    """1 document, 2 documents."""
    return f"{count:,} {noun}" + ("s" if count != 1 else "")


def visible(text: str) -> str:
    """Text that cannot move the cursor or ring the bell: control characters as pictures, but newline and tab."""
    return "".join(map(_picture, text))


def _picture(character: str) -> str:
    code = ord(character)
    if code < 32 and character not in "\n\t":
        return chr(0x2400 + code)
    return "\ufffd" if 127 <= code < 160 else character


def working(what: str) -> AbstractContextManager[object]:
    """A spinner on a terminal, nothing elsewhere, while something takes a moment."""
    console = err()
    return console.status(what) if console.is_terminal else nullcontext()
