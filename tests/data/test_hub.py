"""Datasets through the `datasets` library: its local builders for real, states, shards, and the errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ghost_native.data import PackedSource, RowStream, open_reader, open_source
from ghost_native.data.hub import HubReader
from ghost_native.data.tokenizer import ByteTokenizer
from tests.data.examples import assert_restores, write_lines

ROWS = 23


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three Parquet files with several row groups each."""
    folder = tmp_path_factory.mktemp("tables")
    for i in range(3):
        table = pa.table({"text": [f"document {i} {k}" for k in range(ROWS)], "n": list(range(ROWS))})
        pq.write_table(table, folder / f"part{i}.parquet", row_group_size=5)
    return folder


def texts(reader: Any, epoch: int = 0, position: Any = None) -> list[str]:
    return [row.values["text"] for row in reader.open(epoch, position)]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("seed", [None, 0])
def test_every_row_once_and_from_any_position(tables: Path, home: Path, streaming: bool, seed: int | None) -> None:
    reader, skipped = open_reader(tables, streaming=streaming, cache_dir=home, seed=seed)
    assert isinstance(reader, HubReader) and not skipped
    assert reader.resume == ("state_dict" if streaming else "rows")
    assert reader.ordered == (not streaming and seed is not None)
    natural = [f"document {i} {k}" for i in range(3) for k in range(ROWS)]
    passes = [texts(reader, epoch) for epoch in (0, 1, 0)]
    assert passes[0] == passes[2] and all(sorted(one) == sorted(natural) for one in passes)
    assert (passes[0] == natural) == (seed is None)
    assert (len({tuple(texts(reader, epoch)) for epoch in range(6)}) == 1) == (seed is None)
    cursor = reader.open(1)
    for taken in range(len(natural) + 1):
        position = json.loads(json.dumps(cursor.position()))
        if taken % 7 == 0 or taken > len(natural) - 2:
            assert texts(reader, 1, position) == passes[1][taken:]
        next(cursor, None)


def test_formats(tables: Path, home: Path, tmp_path: Path) -> None:
    csv, array = tmp_path / "a.csv", tmp_path / "a.json"
    csv.write_text("text,n\nalpha,1\nbeta,2\n")
    array.write_text(json.dumps([{"text": "alpha"}, {"text": "beta"}]))
    for path in (csv, array):
        assert texts(open_reader(path, cache_dir=home)[0]) == ["alpha", "beta"], path
    files = sorted(tables.iterdir())
    assert texts(open_reader(files[:2], cache_dir=home)[0]) == texts(open_reader(tables, cache_dir=home)[0])[: 2 * ROWS]
    (tmp_path / "lines").mkdir()
    write_lines(tmp_path / "lines" / "a.jsonl", [{"text": "gamma"}])
    assert texts(HubReader(str(tmp_path / "lines"), cache_dir=home)) == ["gamma"]
    assert texts(HubReader(str(tmp_path / "lines"), cache_dir=home, streaming=False, split="train[:1]")) == ["gamma"]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_restore_exactly(tables: Path, home: Path, streaming: bool, workers: int) -> None:
    def make():
        return open_source(
            tables, ByteTokenizer(), 2, 40, streaming=streaming, cache_dir=home, shuffle_buffer=9, seed=3,
            num_workers=workers,
        )[0]  # fmt: skip

    for taken in (0, 1, 5, 12, 13, 30):  # a pass is 13 batches
        assert_restores(make, taken)


def test_the_buffer_shuffles_and_the_seed_decides(tables: Path, home: Path) -> None:
    def first(seed: int) -> list[str]:
        reader, _ = open_reader(tables, cache_dir=home, seed=seed)
        return [row.values["text"] for row in islice(RowStream(reader, seed, 50), 60)]

    assert first(1) == first(1) != first(2)
    assert first(1)[:20] != sorted(first(1)[:20])


def test_without_a_state_dict_rows_are_skipped(tables: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = texts(HubReader(str(tables), cache_dir=home, seed=1), 1)
    monkeypatch.delattr(datasets.IterableDataset, "state_dict")
    reader = HubReader(str(tables), cache_dir=home, seed=1)
    assert reader.resume == "skip"
    cursor = reader.open(1)
    for taken in range(0, 3 * ROWS, 10):
        position = cursor.position()
        assert position["state"] is None and texts(reader, 1, position) == expected[taken:]
        list(islice(cursor, 10))


def test_states_of_another_seed_or_split_are_refused(tables: Path, home: Path) -> None:
    def source(seed: int) -> PackedSource:
        return PackedSource(RowStream(open_reader(tables, cache_dir=home, seed=seed)[0], seed), ByteTokenizer(), 1, 8)

    with pytest.raises(ValueError, match="belongs to other data"):
        source(0).restore(source(1).state())


def test_errors_of_what_is_asked_for(tables: Path, home: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[HubReader\] .*: Bad split: test. Available splits: \['train'\]"):
        HubReader(str(tables), split="test", cache_dir=home)
    with pytest.raises(ValueError, match=r"\[HubReader\] .*: BuilderConfig 'en' not found"):
        HubReader(str(tables), "en", cache_dir=home)
    with pytest.raises(ValueError, match=r"files of one kind out of .parquet, .arrow, .csv, .json are needed"):
        HubReader([tmp_path / "a.csv", tmp_path / "b.json"])
    with pytest.raises(FileNotFoundError, match=r"\[HubReader\] there is no dataset '.*none.csv'"):
        HubReader([tmp_path / "none.csv"], cache_dir=home)
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"\[HubReader\] .*bad.parquet"):
        texts(open_reader(tmp_path / "bad.parquet", cache_dir=home)[0])


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (ConnectionError("Couldn't reach 'a/b' on the Hub"), ConnectionError, "the hub cannot be reached for the data"),
        (
            datasets.exceptions.DatasetNotFoundError("It doesn't exist"),
            FileNotFoundError,
            "no dataset 'a/b'",
        ),
        (PermissionError(13, "Permission denied"), PermissionError, "Permission denied"),
        (RuntimeError("scripts are\nno longer supported"), ValueError, "a/b: scripts are no longer supported"),
    ],
)
def test_errors_of_the_hub(raised: Exception, kind: type, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(**arguments: object) -> None:
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(kind, match=message):
        open_reader("a/b")


def test_offline(home: Path) -> None:
    """For real, in a process that is told to stay offline."""
    code = "from ghost_native.data import open_reader; open_reader('allenai/c4', config='en')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ConnectionError: [HubReader] the hub cannot be reached for the dataset 'allenai/c4', and no"
    )


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"\[HubReader\] needs datasets: pip install 'ghost-native\[datasets\]'"):
        open_reader("allenai/c4")


def test_no_thread_of_a_progress_bar_is_left_when_python_is_taken_down(tables: Path, home: Path) -> None:
    script = """
import atexit, sys, threading
atexit.register(lambda: print([t.name for t in threading.enumerate()]))  # the last to be called
from ghost_native.data.hub import HubReader
HubReader(sys.argv[1], cache_dir=sys.argv[2], streaming=False)
assert "tqdm_monitor" in [t.name for t in threading.enumerate()]
"""
    fresh = home / "fresh"
    run = subprocess.run([sys.executable, "-c", script, tables, fresh], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout) == (0, "['MainThread']\n"), run.stderr
