"""`inspect --svg`: the same view as a picture, for pages that show images but no scripts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from rich.cells import cell_len

from ghost_native.cli.inspection import byte_labels

if TYPE_CHECKING:
    from ghost_native.cli.inspection import Inspection

COLUMNS = 84
CELL, ROW = 9.6, 34.0  # width of a byte, height of a line
LEFT, TOP = 22.0, 92.0
GLYPH = 22.0  # height of a coloured cell
DEPTH = 4.0  # height of the depth line at full depth

LIGHT = {"page": "#ffffff", "ink": "#1d1f2b", "soft": "#6b7080", "edge": "#b9becd", "cold": "#ffffff",
         "warm": "#ffd27a", "hot": "#f0563f", "deep": "#2b7fd6"}  # fmt: skip
DARK = {"page": "#161821", "ink": "#e8eaf2", "soft": "#9197ab", "edge": "#4a5066", "cold": "#161821",
        "warm": "#7d5215", "hot": "#e0412f", "deep": "#58a8ff"}  # fmt: skip
LEVELS = 16  # steps of the colour scale: classes keep the file small and let it follow the reader's theme


def picture(found: Inspection, by: str = "surprise") -> str:
    """The picture as text, coloured by "surprise" or "bits". It follows the reader's light or dark theme."""
    labels = byte_labels(found.data)
    values = found.heat(by)
    body: list[str] = []
    edges: list[tuple[int, int, int]] = []  # first and last column and line of each piece's part in one line
    x = line = 0
    starts = found.starts
    begin = 0
    for i, label in enumerate(labels):
        width = max(1, cell_len(label))
        if x + width > COLUMNS:
            edges.append((begin, x, line))
            x, line, begin = 0, line + 1, 0
        if starts[i] and x > begin:
            edges.append((begin, x, line))
            begin = x
        body.append(_cell(found, i, float(values[i]), label or "\u00b7", x, line, width))
        x += width
        if found.data[i] == 10:
            edges.append((begin, x, line))
            x, line, begin = 0, line + 1, 0
    if x > begin:
        edges.append((begin, x, line))
    lines = line + (x > 0)
    boxes = [_box(first, last, at) for first, last, at in edges if last > first]
    full, height = 2 * LEFT + COLUMNS * CELL, TOP + lines * ROW + 16
    figures = " \u00b7 ".join(f"{name} {value}" for name, value in found.facts())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full:.0f} {height:.0f}" width="{full:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="What {found.model} sees in a text">\n<style>{_style()}</style>\n'
        f'<rect class="page" width="100%" height="100%" rx="12"/>\n'
        f'<text class="title" x="{LEFT}" y="34">What {found.model} sees</text>\n'
        f'<text class="soft" x="{LEFT}" y="54">{escape(figures)}</text>\n'
        + _legend()
        + "\n".join(body + boxes)
        + "\n</svg>\n"
    )


def _cell(found: Inspection, i: int, value: float, label: str, x: int, line: int, width: int) -> str:
    left, top = LEFT + x * CELL, TOP + line * ROW
    level = round(min(max(value, 0.0), 1.0) * (LEVELS - 1))
    depth = DEPTH * float(found.depth[i]) / found.num_layers
    kind = "soft" if found.data[i] < 32 or label == "\u00b7" else "ink"
    cell = f'<rect class="h{level}" x="{left:.1f}" y="{top:.1f}" width="{width * CELL:.1f}" height="{GLYPH}"/>'
    cell += (
        f'<rect class="deep" x="{left:.1f}" y="{top + GLYPH - depth:.1f}" width="{width * CELL:.1f}" '
        f'height="{depth:.1f}"/>'
    )
    if label.strip():
        cell += f'<text class="{kind}" x="{left + width * CELL / 2:.1f}" y="{top + 14.5:.1f}">{escape(label)}</text>'
    return cell


def _box(first: int, last: int, line: int) -> str:
    return (
        f'<rect class="box" x="{LEFT + first * CELL + 0.5:.1f}" y="{TOP + line * ROW - 1:.1f}" '
        f'width="{(last - first) * CELL - 1:.1f}" height="{GLYPH + 2}" rx="4"/>'
    )


def _legend() -> str:
    parts = [f'<rect class="h{level}" x="{LEFT + level * 7}" y="66" width="7" height="10"/>' for level in range(LEVELS)]
    at = LEFT + LEVELS * 7 + 8
    parts.append(f'<text class="soft" x="{at}" y="75">expected to surprising</text>')
    parts.append(f'<rect class="deep" x="{at + 150}" y="72" width="22" height="{DEPTH}"/>')
    parts.append(f'<text class="soft" x="{at + 178}" y="75">depth</text>')
    parts.append(f'<rect class="box" x="{at + 228}" y="66" width="22" height="11" rx="3"/>')
    parts.append(f'<text class="soft" x="{at + 256}" y="75">piece found by the tokenizer</text>\n')
    return "".join(parts)


def _style() -> str:
    dark = ";".join(f"--{name}:{value}" for name, value in DARK.items())
    light = ";".join(f"--{name}:{value}" for name, value in LIGHT.items())
    rules = [
        f"svg{{{light}}}",
        f"@media(prefers-color-scheme:dark){{svg{{{dark}}}{_levels(DARK)}}}",
        ".page{fill:var(--page)}.deep{fill:var(--deep)}.box{fill:none;stroke:var(--edge)}",
        "text{font:15px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;text-anchor:middle;fill:var(--ink)}",
        "text.soft{fill:var(--soft)}",
        "text.title{font:600 20px system-ui,sans-serif;text-anchor:start}",
        'text.soft[y="54"],text.soft[y="75"]{font:12px system-ui,sans-serif;text-anchor:start}',
    ]
    return _levels(LIGHT) + "".join(rules)


def _levels(theme: dict[str, str]) -> str:
    return "".join(f".h{level}{{fill:{_mix(theme, level / (LEVELS - 1))}}}" for level in range(LEVELS))


def _mix(theme: dict[str, str], value: float) -> str:
    low, high = ("cold", "warm") if value < 0.5 else ("warm", "hot")
    part = value * 2 - (value >= 0.5)
    ends = [[int(theme[name][k : k + 2], 16) for k in (1, 3, 5)] for name in (low, high)]
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(*ends, strict=True))
