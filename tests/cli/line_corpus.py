"""A small corpus that the tests of several commands train on."""

from __future__ import annotations

from pathlib import Path

LINE = "for each word in a line of text there is a byte to guess, number {};\n"


def write_corpus(root: Path, files: int) -> Path:
    """A new folder of so many files of twelve lines, no line twice."""
    root.mkdir()
    for k in range(files):
        (root / f"part{k}.txt").write_text("".join(LINE.format(i * files + k) for i in range(12)))
    return root
