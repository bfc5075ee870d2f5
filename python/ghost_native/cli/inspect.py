"""`ghost-native inspect`: what the model makes of every byte of a text, in the terminal and as a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from ghost_native.cli import checkpoints, terminal
from ghost_native.cli.errors import UsageError
from ghost_native.cli.parser import Arguments, Parser, number

if TYPE_CHECKING:
    from ghost_native.cli.inspection import Inspection

DESCRIPTION = """\
Show for every byte of a text how surprising it was, how many layers it went through, and where the tokenizer begins a
new piece (of a transformer: how surprising its token was, and where a token begins): in the terminal, and with --html
as one page that needs nothing else (move over a byte for its values)."""

EXAMPLES = """\
ghost-native inspect ghost.safetensors "The quick brown fox jumps over the lazy dog."
ghost-native inspect ghost.safetensors --file poem.txt --html poem.html
ghost-native inspect ghost.safetensors --file poem.txt --svg poem.svg
"""

BARS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
NAME_WIDTH = 10
PLAIN_WIDTH = 90
# Dark blue to yellow through red: readable with white or black text on it.
HEAT = ((38, 42, 72), (84, 46, 112), (158, 52, 104), (220, 84, 72), (246, 166, 60))


def add_arguments(parser: Parser) -> None:
    checkpoints.add_model(parser)
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the text; - reads stdin")
    parser.add_argument("--file", type=Path, metavar="FILE", help="inspect the bytes of this file; - is stdin")
    parser.add_argument("--color-by", choices=("surprise", "bits"), default="surprise",
                        help="surprise of Ghost's cheap predictor (default) or bits of the whole model")  # fmt: skip
    parser.add_argument("--max-bytes", type=number(int, 1), default=4096, metavar="N",
                        help="inspect the first N bytes (default 4096)")  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page; light and dark, nothing external")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture, for documents")


def run(args: Arguments) -> int:
    data = _text(args)
    for path in (args.html, args.svg):
        if path is not None:
            checkpoints.check_writable(path)
    from ghost_native.cli import inspection

    saved = checkpoints.load(args.checkpoint, args.tokenizer)
    if len(data) > args.max_bytes:
        terminal.remark(f"the first {args.max_bytes} of {len(data)} bytes; --max-bytes shows more")
    found = inspection.inspect_text(saved.model, data[: args.max_bytes], saved.encoder)
    _print(found, args.color_by)
    if args.html is not None:
        from ghost_native.cli.inspect_html import page

        args.html.write_text(page(found, args.checkpoint.resolve().name, args.color_by), encoding="utf-8")
        terminal.remark(f"wrote {args.html}")
    if args.svg is not None:
        from ghost_native.cli.inspect_svg import picture

        args.svg.write_text(picture(found, args.color_by), encoding="utf-8")
        terminal.remark(f"wrote {args.svg}")
    return 0


def _text(args: Arguments) -> bytes:
    if (args.text is None) == (args.file is None):
        raise UsageError("given " + ("neither" if args.text is None else "both") + " TEXT and --file, allowed is one")
    if args.text == "-" or (args.file is not None and str(args.file) == "-"):
        return sys.stdin.buffer.read()
    if args.file is not None:
        return bytes(args.file.read_bytes())
    return str(args.text).encode("utf-8", "surrogateescape")


def heat(value: float) -> tuple[int, int, int]:
    """A colour for 0 (cold) to 1 (hot)."""
    at = min(max(value, 0.0), 1.0) * (len(HEAT) - 1)
    low = min(int(at), len(HEAT) - 2)
    part = at - low
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(HEAT[low], HEAT[low + 1], strict=True))
    return red, green, blue


def _print(found: Inspection, by: str) -> None:
    """Four rows for each line of text: the text, surprise, depth, pieces."""
    from ghost_native.cli.inspection import byte_labels

    console = terminal.out()
    width = (console.width if console.is_terminal else PLAIN_WIDTH) - NAME_WIDTH - 1
    labels = byte_labels(found.data)
    line: list[int] = []
    used = 0
    for i, label in enumerate(labels):
        cells = max(1, cell_len(label))
        if used + cells > width:
            _print_line(found, by, labels, line)
            line, used = [], 0
        line.append(i)
        used += cells
        if found.data[i] == 10:
            _print_line(found, by, labels, line)
            line, used = [], 0
    if line:
        _print_line(found, by, labels, line)
    terminal.rows(list(found.facts()))


def _print_line(found: Inspection, by: str, labels: list[str], line: list[int]) -> None:
    rows = [Text.assemble((f"{name:<{NAME_WIDTH}}", "dim")) for name in ("text", by, "depth", "piece")]
    begins, values = found.starts, found.heat(by)
    for i in line:
        label = labels[i] or "\u00b7"
        pad = " " * (max(1, cell_len(label)) - 1)
        red, green, blue = heat(float(values[i]))
        ink = "black" if red + green > 330 else "white"
        rows[0].append(label, f"{ink} on rgb({red},{green},{blue})")
        rows[1].append(BARS[round(float(values[i]) * (len(BARS) - 1))] + pad, f"rgb({red},{green},{blue})")
        depth = int(found.depth[i])
        rows[2].append(
            (str(depth) if depth < 10 else "+") + pad, "cyan" if depth > found.num_layers / 2 else "dim cyan"
        )
        rows[3].append(("\u2502" if begins[i] else "\u2500") + pad, "bold yellow" if begins[i] else "dim")
    for row in rows:
        terminal.out().print(row)
    terminal.out().print()
