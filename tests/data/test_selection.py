"""Which rows of a dataset are held out or left out, and what a dataset is read as."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.data import ByteBatcher, ByteTokenizer, Document, PackedSource, RowStream, readers
from ghost_native.data.document_reader import DocumentReader
from ghost_native.data.readers import JsonLines, TextFiles, file_reader
from ghost_native.data.row_share import RowShare
from ghost_native.data.rows import Row
from ghost_native.data.selection import Selection, content_of, fitting_share, is_heldout
from ghost_native.data.sources import kind_of_data
from tests.data.examples import ListReader, assert_restores, assert_same, write_lines


@given(st.lists(st.text(max_size=6), max_size=40), st.floats(1e-6, 0.5))
def test_a_fitting_share_leaves_neither_side_empty(places: list[str], share: float) -> None:
    found = fitting_share(iter(places), share)
    held = {place for place in places if is_heldout(place, found)}
    if found == 0:
        assert len({is_heldout(place, share) for place in places}) < 2
        assert len(set(places)) < 2 or len({place.encode("utf-8", "surrogateescape") for place in places}) > 1
        return
    assert held and held != set(places)
    before = {place for place in places if is_heldout(place, share)}
    assert (found == share) == bool(before and before != set(places))


def test_no_more_places_are_looked_at_than_needed() -> None:
    looked = iter(f"row {k}" for k in range(100_000))
    assert fitting_share(looked, 0.2) == 0.2
    assert next(looked) < "row 9" and int(next(looked).split()[1]) < 200


def test_contents_are_the_same_wherever_they_stand() -> None:
    row = Row({"text": "one é", "n": 1}, "a:1")
    assert content_of(row, ["text"]) == content_of(Row({"text": "one é".encode(), "n": 2}, "b:7"), ["text"])
    assert content_of(row, ["text"]) != content_of(Row({"text": "one e"}, "a:1"), ["text"])
    assert content_of(row, ["body"]) is None and content_of(Row({"text": None}, "a"), ["text"]) is None
    one, other = ({"prompt": "p", "chosen": a, "rejected": b} for a, b in (("x", "y"), ("y", "x")))
    fields = ["prompt", "chosen", "rejected"]
    assert content_of(Row(one, ""), fields) == content_of(Row(dict(reversed(one.items())), "z"), fields)
    assert content_of(Row(one, ""), fields) != content_of(Row(other, ""), fields)


def test_rows_are_left_out_by_their_contents() -> None:
    rows = [{"body": f"row {k % 7}", "n": k} for k in range(21)]
    without = Selection(ListReader([{"body": "row 2"}, {"body": "row 5"}]), {"body": "text"}).contents()
    selection = Selection(ListReader(rows), {"body": "text"}, without=without)
    assert [row.values["n"] for row in selection.open(0)] == [k for k in range(21) if k % 7 not in (2, 5)]
    assert selection.fingerprint != Selection(ListReader(rows), {"body": "text"}).fingerprint
    stream = RowStream(selection, 0, 4)
    list(islice(stream, 9))
    state = json.loads(json.dumps(stream.state()))
    again = RowStream(selection, 0, 4)
    again.restore(state)
    assert list(islice(again, 20)) == list(islice(stream, 20))


def test_a_format_is_for_every_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.txt", [{"text": "x"}])
    write_lines(tmp_path / "b.jsonl", [{"text": "y"}])
    lines, skipped = file_reader(tmp_path, format="jsonl")
    assert isinstance(lines, JsonLines) and not skipped
    assert [row.values["text"] for row in lines.open(0)] == ["x", "y"]
    text, _ = file_reader([tmp_path / "a.txt", tmp_path / "b.jsonl"], format="text")
    assert isinstance(text, TextFiles) and [row.values["text"] for row in text.open(0)][1] == b'{"text": "y"}\n'


def test_kinds_of_data(tmp_path: Path) -> None:
    names = {"a.txt": "text", "a.txt.gz": "compressed text", "a.jsonl.gz": "JSON lines", "a.parquet": "tables",
             "a.csv": "tables", "README": "text"}  # fmt: skip
    for name, kind in names.items():
        (tmp_path / name).write_bytes(b"x")
        assert kind_of_data(tmp_path / name) == kind, name
        assert kind_of_data([tmp_path / name], "jsonl") == "JSON lines"
        assert kind_of_data(str(tmp_path / name), "text") == ("compressed text" if ".gz" in name else "text")
        assert kind_of_data(tmp_path / name, "shards") == "shards"
    assert kind_of_data(tmp_path) == "tables"
    (tmp_path / "a.parquet").unlink()
    assert kind_of_data(tmp_path) == "JSON lines"
    (tmp_path / "a.jsonl.gz").unlink()
    assert kind_of_data(tmp_path) == "compressed text" and kind_of_data("allenai/c4") == "hub"
    (tmp_path / "a.txt.gz").unlink()
    assert kind_of_data(tmp_path) == "text"  # .csv counts where it is named


@pytest.mark.parametrize("seed", [None, 0])
def test_documents_are_rows(monkeypatch: pytest.MonkeyPatch, seed: int | None) -> None:
    monkeypatch.setattr(readers, "PIECE_BYTES", 7)
    documents = [Document(f"d{k}", bytes(range(65, 66 + 5 * k))) for k in range(6)]
    reader = DocumentReader(documents, seed)
    orders = set()
    for epoch in range(4):
        found: dict[str, bytes] = {}
        for row in reader.open(epoch):
            found[row.where] = found.get(row.where, b"") + row.values["text"]
            assert row.more == (len(found[row.where]) < len(documents[int(row.where[1:])]))
        assert found == {document.name: document.data for document in documents}
        orders.add(tuple(found))
    assert (len(orders) == 1) == (seed is None)
    cursor = reader.open(0)
    assert cursor.share() == 0
    rows = list(reader.open(0))
    for taken in range(len(rows) + 1):
        assert list(reader.open(0, json.loads(json.dumps(cursor.position())))) == rows[taken:]
        next(cursor, None)
    assert cursor.share() == 1

    def make() -> PackedSource:
        return PackedSource(RowStream(DocumentReader(documents, seed), seed), ByteTokenizer(), 2, 5, run=2)

    assert_restores(make, 11)


def test_text_in_its_own_order() -> None:
    documents = [Document(name, data) for name, data in (("b", b"one two "), ("a", b"three four "), ("c", b"five"))]
    source = ByteBatcher(documents, 2, 3, None, run=2)
    read = np.concatenate([np.concatenate([next(source).tokens for _ in range(2)], 1).ravel() for _ in range(2)])
    assert bytes(read.tolist()) == b"one two \nthree four \nfiv"
    assert_restores(lambda: ByteBatcher(documents, 2, 3, None, run=2), 3)


def test_rows_of_a_source() -> None:
    documents = [Document("a", bytes(range(200)))]

    def make(begin: int, batch: int) -> RowShare:
        return RowShare(ByteBatcher(documents, 5, 4, 1, run=3), begin, batch)

    whole, first, second = ByteBatcher(documents, 5, 4, 1, run=3), make(0, 2), make(2, 3)
    for batch in islice(whole, 7):
        parts = [next(first), next(second)]
        assert parts[0].fresh == parts[1].fresh == batch.fresh
        np.testing.assert_array_equal(np.concatenate([part.tokens for part in parts]), batch.tokens)
        np.testing.assert_array_equal(np.concatenate([part.targets for part in parts]), batch.targets)
    assert first.state() == second.state() == whole.state() and first.epoch == whole.epoch
    assert_restores(lambda: make(2, 3), 4)
    assert_same(next(iter(make(0, 5))), next(ByteBatcher(documents, 5, 4, 1, run=3)))
    for begin, batch in ((0, 6), (-1, 2), (4, 2), (0, 0)):
        with pytest.raises(ValueError, match=r"\[RowShare\] given the rows .*, allowed: some of 0 to 5"):
            make(begin, batch)
