"""Readers of files: text of any kind, and JSON lines; compressed or not."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from ghost_native.data.corpora import Skipped, list_files, load_file
from ghost_native.data.files import COMPRESSED, broken, open_file, skip
from ghost_native.data.rows import Position, Row, digest, order_of

PIECE_BYTES = 1 << 20  # a longer document is given out as several rows
JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".parquet", ".arrow")  # read by the `datasets` library
NAMED_TABLES = (*TABLES, ".csv", ".json")  # likewise when named one by one; in a folder they are text

FileFormat = Literal["auto", "text", "jsonl"]


def kind_of(path: Path) -> str:
    """The ending that tells what is in a file, that of a compression left out."""
    return (Path(path.stem) if path.suffix in COMPRESSED else path).suffix.lower()


class FileReader(ABC):
    """A pass over files, in an order shuffled by `seed` and pass, or as given when the seed is None.

    Args:
        files: (label, path) of each.
        seed: of the order of the files.
    """

    ordered = False

    def __init__(self, files: Sequence[tuple[str, Path]], seed: int | None = None) -> None:
        self.files, self.seed = list(files), seed
        sizes = [path.stat().st_size for _, path in self.files]
        self.name = self.files[0][0] if len(self.files) == 1 else f"{len(self.files)} files"
        labels = [f"{size} {label}" for (label, _), size in zip(self.files, sizes, strict=True)]
        self.fingerprint = digest(type(self).__name__, seed, *labels)

    def open(self, epoch: int, position: Position | None = None) -> FileCursor:
        order = order_of(len(self.files), self.seed, epoch)
        return FileCursor(self, [self.files[i] for i in order], position)

    @abstractmethod
    def rows(self, label: str, path: Path, within: Position | None) -> Iterator[tuple[Row, Position]]:
        """The rows of one file from a point on, each with the point after it."""


class FileCursor:
    """One pass of a `FileReader`. Positions are [number of the file in the order of the pass, point within it]."""

    def __init__(self, reader: FileReader, files: list[tuple[str, Path]], position: Position | None) -> None:
        self._reader, self._files = reader, files
        self._number: int = 0
        self._within: Position = None
        if position is not None:
            self._number, self._within = position
        self._rows: Iterator[tuple[Row, Position]] | None = None

    def __iter__(self) -> FileCursor:
        return self

    def __next__(self) -> Row:
        while self._number < len(self._files):
            label, path = self._files[self._number]
            if self._rows is None:
                self._rows = self._reader.rows(label, path, self._within)
            try:
                row, self._within = next(self._rows)
                return row
            except StopIteration:
                self._number, self._within, self._rows = self._number + 1, None, None
            except Exception as error:
                if path.suffix in COMPRESSED and broken(error):
                    raise ValueError(f"[FileReader] {label} is cut short or damaged: {error}") from error
                raise
        raise StopIteration

    def position(self) -> Position:
        return [self._number, self._within]

    def share(self) -> float | None:
        """In bytes of the files; a compressed file counts when it is done."""
        total = sum(path.stat().st_size for _, path in self._files)
        done = sum(path.stat().st_size for _, path in self._files[: self._number])
        if self._within and self._files[self._number][1].suffix not in COMPRESSED:
            done += self._within[0] if isinstance(self._within, list) else self._within
        return done / total if total else None


class TextFiles(FileReader):
    """Every file is one document, its bytes are the field "text".

    Documents above 1 MiB come as several rows, cut after a newline where there is one. Compressed files are
    decompressed in memory, large plain ones memory-mapped.
    """

    ordered = True

    def rows(self, label: str, path: Path, within: Position | None) -> Iterator[tuple[Row, Position]]:
        data: bytes | memoryview = b""
        if path.suffix in COMPRESSED:
            with open_file(path) as file:
                data = file.read()
        else:
            data = load_file(path)
        begin = within or 0
        while begin < len(data):
            end = end_of_piece(data, begin)
            yield Row({"text": bytes(data[begin:end])}, label, end < len(data)), end
            begin = end


def end_of_piece(data: bytes | memoryview, begin: int) -> int:
    """Where the piece that begins here ends."""
    if len(data) - begin <= PIECE_BYTES:
        return len(data)
    piece = bytes(data[begin : begin + PIECE_BYTES])
    newline = piece.rfind(b"\n") + 1
    if newline:
        return begin + newline
    end = len(piece)
    while end > len(piece) - 3 and data[begin + end] & 0xC0 == 0x80:  # not within a character of UTF-8
        end -= 1
    return begin + end


class JsonLines(FileReader):
    """Every line is one row: a JSON object. Blank lines are passed over.

    To continue within a compressed file, what comes before is decompressed again.

    Raises:
        ValueError: while iterating, a line that is no JSON object, with its file and number.
    """

    def rows(self, label: str, path: Path, within: Position | None) -> Iterator[tuple[Row, Position]]:
        offset, number = within or (0, 0)
        with open_file(path) as file:
            skip(file, offset)
            for line in file:
                offset += len(line)
                number += 1
                if line.strip():
                    where = f"{label}:{number}"
                    yield Row(_parse(line, where), where), [offset, number]


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"[JsonLines] {where} is not JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"[JsonLines] {where} is not UTF-8 (byte {error.start + 1})") from error
    except RecursionError as error:
        raise ValueError(f"[JsonLines] {where} is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"[JsonLines] {where} is a JSON {type(value).__name__}, an object is needed")
    return value


def file_reader(
    paths: Sequence[str | Path] | str | Path, seed: int | None = None, *, format: FileFormat = "auto"
) -> tuple[TextFiles | JsonLines, list[Skipped]]:
    """The reader that fits files and folders, and the files it leaves out.

    Args:
        paths: files and folders.
        seed: of the order of the files; None for their own.
        format: "text" and "jsonl" read every file so, whatever its name. "auto" tells by the names: .jsonl and .ndjson
            files are JSON lines, and in a folder with some only these are read; everything else is text. All may end
            in .gz or .zst.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: no paths, an empty folder, or with "auto" files of both kinds named one by one.
    """
    files, skipped = list_files(paths, "file_reader")
    if format != "auto":
        return (TextFiles if format == "text" else JsonLines)(files, seed), skipped
    lines = [(label, path) for label, path in files if kind_of(path) in JSON_LINES]
    if not lines:
        return TextFiles(files, seed), skipped
    named = {Path(paths)} if isinstance(paths, (str, Path)) else {Path(path) for path in paths}
    for label, path in files:
        if kind_of(path) in JSON_LINES:
            continue
        if path in named:
            raise ValueError(f"[file_reader] {label} is text and {lines[0][0]} is JSON lines; read them apart")
        skipped.append(Skipped(label, "not JSON lines, as others are"))
    return JsonLines(lines, seed), skipped
