"""Corpora: determinism, what is held out, what is skipped and said so, and the errors."""

from __future__ import annotations

import gzip
import lzma
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.data import corpora
from ghost_native.data.corpora import Corpus, Document, Skipped, baselines, python_corpus, read_corpus, read_documents


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def python() -> Corpus:
    return python_corpus()


def test_python_corpus_holds_whole_files_out(python: Corpus) -> None:
    train, heldout = {d.name for d in python.train}, {d.name for d in python.heldout}
    assert not train & heldout
    assert not {bytes(d.data) for d in python.train} & {bytes(d.data) for d in python.heldout}
    assert 250_000 < python.heldout_bytes < 320_000
    assert python.train_bytes > 5_000_000
    assert not any(name.startswith("pydoc_data") for name in heldout)
    assert any(name.startswith("pydoc_data/topics/") for name in train)
    assert not any("/test/" in name or "site-packages" in name for name in train | heldout)


def test_python_corpus_is_deterministic_and_reports_what_it_skips(python: Corpus) -> None:
    again = python_corpus()
    assert [d.name for d in again.train] == [d.name for d in python.train]
    assert [d.name for d in again.heldout] == [d.name for d in python.heldout]
    assert {s.reason for s in python.skipped} >= {"under 200 bytes"}
    assert "skipped" in python.summary() and f"{len(python.train)} documents" in python.summary()


def test_more_held_out_bytes_move_nothing_out_of_training(python: Corpus) -> None:
    more = python_corpus(heldout_bytes=600_000)
    assert {d.name for d in more.train} == {d.name for d in python.train}
    assert {d.name for d in more.heldout} > {d.name for d in python.heldout}


def test_python_corpus_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"\[python_corpus\] .* holds no Python sources; install"):
        python_corpus(tmp_path)
    with pytest.raises(ValueError, match=r"\[python_corpus\] heldout_bytes is 10, less than any file"):
        python_corpus(heldout_bytes=10)


def test_read_documents_order_names_and_skips(tmp_path: Path) -> None:
    root = write(
        tmp_path / "texts",
        {"b.txt": b"two", "a/z.bin": bytes(range(256)), "a/.git/x": b"no", ".h": b"no", "e": b"", "twin": b"two"},
    )
    (root / "broken").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe")
    documents, skipped = read_documents([root, root / "b.txt"])
    assert [(d.name, bytes(d.data)) for d in documents] == [
        ("texts/a/z.bin", bytes(range(256))),
        ("texts/b.txt", b"two"),
    ]
    assert sorted(skipped, key=lambda s: s.name) == [
        Skipped("b.txt", "read already"),
        Skipped("texts/.h", "hidden"),
        Skipped("texts/a/.git/", "hidden"),
        Skipped("texts/broken", "broken link"),
        Skipped("texts/e", "empty"),
        Skipped("texts/pipe", "not a regular file"),
        Skipped("texts/twin", "same bytes as another file"),
    ]


def test_read_documents_tells_equal_names_apart(tmp_path: Path) -> None:
    write(tmp_path, {"x/a.txt": b"one", "y/a.txt": b"two"})
    documents, _ = read_documents([tmp_path / "x" / "a.txt", tmp_path / "y" / "a.txt"])
    assert len({d.name for d in documents}) == 2


def test_large_files_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "MAP_BYTES", 10)
    write(tmp_path, {"small": b"x" * 10, "large": b"y" * 11})
    documents, _ = read_documents(tmp_path)
    by_name = {d.name.split("/")[1]: d for d in documents}
    assert isinstance(by_name["small"].data, bytes) and isinstance(by_name["large"].data, memoryview)
    assert by_name["large"].array().tolist() == [121] * 11
    assert len(read_corpus(tmp_path, heldout_fraction=0.5).heldout) == 1


def test_read_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing").write_bytes(b"")
    (tmp_path / "one").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"\[read_documents\] no paths"):
        read_documents([])
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*missing"):
        read_documents(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"the folder .*empty holds no files \(hidden"):
        read_documents(tmp_path / "empty")
    with pytest.raises(ValueError, match="all 1 files are empty or hidden"):
        read_documents(tmp_path / "nothing")
    with pytest.raises(ValueError, match="one holds 1 byte, at least 2"):
        read_corpus(tmp_path / "one")
    for fraction in (-0.1, 0.51, float("nan")):
        with pytest.raises(ValueError, match=r"heldout_fraction is .*, allowed are 0 to 0\.5"):
            read_corpus(tmp_path, heldout_fraction=fraction)


@given(st.integers(2, 5000), st.floats(0.001, 0.5))
def test_a_single_file_is_split_at_its_end(tmp_path: Path, size: int, fraction: float) -> None:
    data = bytes(i % 251 for i in range(size))
    (tmp_path / "single").write_bytes(data)
    corpus = read_corpus(tmp_path / "single", heldout_fraction=fraction)
    (train,), (heldout,) = corpus.train, corpus.heldout
    assert bytes(train.data) + bytes(heldout.data) == data
    assert len(train) >= 1 and abs(len(heldout) - size * fraction) <= 1
    assert train.name != heldout.name


@given(st.lists(st.integers(1, 4000), min_size=2, max_size=30), st.floats(0.001, 0.5))
def test_whole_files_are_held_out(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], fraction: float) -> None:
    root = tmp_path_factory.mktemp("files")
    contents = [f"{i:04}".encode() + b"x" * size for i, size in enumerate(sizes)]
    write(root, {f"f{i}": data for i, data in enumerate(contents)})
    corpus = read_corpus(root, heldout_fraction=fraction)
    sides = [bytes(d.data) for d in corpus.train], [bytes(d.data) for d in corpus.heldout]
    assert sides[0] and sides[1] and sorted(sides[0] + sides[1]) == sorted(contents)
    total = sum(map(len, contents))
    assert corpus.heldout_bytes <= max(1.5 * fraction * total, min(map(len, contents)))


def test_nothing_held_out_when_asked(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"one", "b": b"two"})
    corpus = read_corpus([tmp_path], heldout_fraction=0)
    assert len(corpus.train) == 2 and corpus.heldout == [] and corpus.heldout_bytes == 0


def test_baselines_are_of_the_concatenation() -> None:
    documents = [Document("a", b"abc" * 100), Document("b", memoryview(b"abc" * 200))]
    data = b"abc" * 300
    found = baselines(documents)
    assert found["gzip"] == 8 * len(gzip.compress(data, 9)) / 900
    assert found["xz"] == 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / 900
    with pytest.raises(ValueError, match=r"\[baselines\] the documents hold no bytes"):
        baselines([])
