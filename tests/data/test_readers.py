"""Readers of files: every byte and row once, from any point, and the errors with file and line."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.data import open_reader, open_source, readers
from ghost_native.data.readers import JsonLines, TextFiles, file_reader
from ghost_native.data.rows import Row, RowStream
from ghost_native.data.tokenizer import ByteTokenizer
from tests.data.examples import assert_restores, write_lines


def rows_of(reader: TextFiles | JsonLines, epoch: int = 0) -> list[Row]:
    return list(reader.open(epoch))


def assert_positions(reader: TextFiles | JsonLines) -> None:
    """From every point of a pass the rest of it follows."""
    for epoch in (0, 1):
        whole = rows_of(reader, epoch)
        cursor = reader.open(epoch)
        for taken in range(len(whole) + 1):
            position = json.loads(json.dumps(cursor.position()))
            assert list(reader.open(epoch, position)) == whole[taken:]
            next(cursor, None)


def compress(path: Path) -> Path:
    """The same file, compressed as the name says."""
    import zstandard

    data, packer = path.with_suffix("").read_bytes(), zstandard.ZstdCompressor(write_checksum=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else packer.compress(data))
    path.with_suffix("").unlink()
    return path


@given(
    st.lists(st.binary(max_size=60), min_size=1, max_size=4),
    st.integers(4, 20),
    st.sampled_from([None, 0, 1]),
)
def test_text_in_pieces_is_the_text(tmp_path_factory, contents: list[bytes], piece: int, seed: int | None) -> None:
    folder = tmp_path_factory.mktemp("text")
    for i, data in enumerate(contents):
        (folder / f"{i}.txt").write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "PIECE_BYTES", piece)
        reader, _ = file_reader(folder, seed)
        documents: list[bytes] = []
        joined = b""
        for row in rows_of(reader):
            joined += row.values["text"]
            assert 0 < len(row.values["text"]) <= piece
            if not row.more:
                documents.append(joined)
                joined = b""
        expected = [data for data in contents if data]
        assert (documents == expected) if seed is None else (sorted(documents) == sorted(expected))
        assert_positions(reader)


def test_pieces_end_after_lines_and_never_within_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PIECE_BYTES", 8)
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n€€€€€€€", encoding="utf-8")
    pieces = [row.values["text"].decode() for row in rows_of(file_reader(tmp_path)[0])]
    assert pieces == ["one\ntwo\n", "three\n", "€€", "€€", "€€", "€"]


@pytest.mark.parametrize("piece", [4, 5, 6])
def test_pieces_end_in_bytes_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """Nothing but continuation bytes: no character begins where a piece could end."""
    monkeypatch.setattr(readers, "PIECE_BYTES", piece)
    (tmp_path / "a.bin").write_bytes(b"\x80" * 23)
    pieces = [row.values["text"] for row in islice(file_reader(tmp_path / "a.bin")[0].open(0), 24)]
    assert b"".join(pieces) == b"\x80" * 23 and all(pieces)


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst"])
def test_json_lines(tmp_path: Path, ending: str) -> None:
    for i in range(3):
        target = tmp_path / f"{i}{ending}"
        compressed = target.suffix in (".gz", ".zst")
        path = target.with_suffix("") if compressed else target
        write_lines(path, [{"text": f"é {i} {k}"} for k in range(3 + i)])
        path.write_text(path.read_text() + "\n \n")
        if compressed:
            compress(target)
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden").write_text("x")
    reader, skipped = file_reader(tmp_path)
    assert [row.values["text"] for row in rows_of(reader)] == [f"é {i} {k}" for i in range(3) for k in range(3 + i)]
    assert rows_of(reader)[1].where == f"{tmp_path.name}/0{ending}:2"
    assert {skip.reason for skip in skipped} == {"hidden", "not JSON lines, as others are"}
    assert_positions(reader)
    shuffled, _ = file_reader(tmp_path, 3)
    assert_positions(shuffled)
    assert reader.fingerprint != shuffled.fingerprint
    orders = {tuple(row.where for row in rows_of(shuffled, epoch)) for epoch in range(6)}
    assert len(orders) > 1 and len({tuple(sorted(order)) for order in orders}) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a" "b"}', r"data.jsonl:3 is not JSON: Expecting ',' delimiter at column 14"),
        (b'{"text": ', r"data.jsonl:3 is not JSON: Expecting value at column 1"),
        (b'["text"]', "data.jsonl:3 is a JSON list, an object is needed"),
        (b"null", "data.jsonl:3 is a JSON NoneType, an object is needed"),
        (b'{"text": "\xff"}', r"data.jsonl:3 is not UTF-8 \(byte 11\)"),
        (b"[" * 100_000, "data.jsonl:3 is nested too deeply"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"\[JsonLines\] " + message):
        rows_of(file_reader(path)[0])


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_damaged_compressed_files_are_named(tmp_path: Path, ending: str, name: str) -> None:
    write_lines(tmp_path / name, [{"text": f"{i * 7919} words"} for i in range(3000)])
    path = compress(tmp_path / (name + ending))
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:50] + bytes(60) + data[110:], b"no such format at all"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{name}{ending} is cut short or damaged|is not JSON"):
            rows_of(file_reader(path)[0])


def test_which_reader(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.txt", write_lines(tmp_path / "b.jsonl", [{"text": "x"}])
    text.write_text("text")
    assert isinstance(open_reader(text)[0], TextFiles) and isinstance(open_reader([str(lines)])[0], JsonLines)
    cursor = open_reader([text, tmp_path / "a.txt"])[0].open(0)
    assert cursor.share() == 0 and next(cursor).values == {"text": b"text"} and cursor.share() == 1
    with pytest.raises(ValueError, match=r"\[file_reader\] a.txt is text and b.jsonl is JSON lines; read them apart"):
        open_reader([text, lines])
    table = tmp_path / "t.parquet"
    table.write_text("")
    with pytest.raises(ValueError, match=r"\[open_reader\] a.txt and t.parquet are files of different kinds"):
        open_reader([text, table])
    for missing in ("a.jsonl", "./nothing", "/no/such/folder", "some/deep/folder", "folder/"):
        with pytest.raises(FileNotFoundError, match=r"no such file or folder"):
            open_reader(missing)
    with pytest.raises(ValueError, match="no paths were given"):
        open_reader([])


@pytest.mark.parametrize("workers", [0, 2])
def test_open_source_on_files(tmp_path: Path, workers: int) -> None:
    write_lines(tmp_path / "a.jsonl", [{"body": f"row {i} " * (i % 4)} for i in range(40)])

    def make():
        return open_source(
            str(tmp_path), ByteTokenizer(), 2, 9, text_field="body", shuffle_buffer=7, num_workers=workers, run=2
        )[0]

    for taken in (0, 3, 11):
        assert_restores(make, taken)
    first = [batch.tokens.tobytes() for batch in islice(make(), 9)]
    alone = open_source(tmp_path, ByteTokenizer(), 2, 9, text_field="body", shuffle_buffer=7, run=2)[0]
    assert first == [batch.tokens.tobytes() for batch in islice(alone, 9)]


def test_open_source_errors(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "x"}])
    with pytest.raises(ValueError, match=r"\[open_source\] stage is 'rl', allowed: pretrain, sft, preference"):
        open_source(path, ByteTokenizer(), 1, 1, stage="rl")
    with pytest.raises(ValueError, match=r"\[open_source\] num_workers is -1"):
        open_source(path, ByteTokenizer(), 1, 1, num_workers=-1)


def test_an_empty_folder_of_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"a.jsonl holds no rows"):
        next(RowStream(file_reader(tmp_path / "a.jsonl")[0]))
