"""Shards: round trips, random access, damage and foreign tokenizers refused, nothing half-written, exact restore."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.data import ByteTokenizer, Shards, ShardSource, ShardWriter, open_source, shards
from ghost_native.data.shards import MANIFEST, dtype_for
from tests.data.examples import assert_restores

END = 257


class Wide(ByteTokenizer):
    """A tokenizer with many ids, of which the first 256 are bytes."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = self.num_outputs = vocab_size
        self.fingerprint = f"wide {vocab_size}"
        self.specials = {"eos": vocab_size - 1}


def write(path: Path, documents: list[list[int]], *, tokenizer: ByteTokenizer | None = None, limit: int = 9) -> Shards:
    with ShardWriter(path, tokenizer or ByteTokenizer(), shard_tokens=limit) as writer:
        for ids in documents:
            writer.add(np.array(ids, np.int32), num_bytes=len(ids))
    return Shards(path, tokenizer or ByteTokenizer())


def alter(path: Path, **changes: object) -> None:
    """Change a manifest, with a SHA-256 that fits."""
    values = {**json.loads(path.read_text()), **changes}
    values["sha256"] = shards._hash_of(values)
    path.write_text(json.dumps(values))


ids = st.lists(st.lists(st.integers(0, 255), max_size=12), min_size=1, max_size=9)


@given(ids, st.integers(1, 30), st.sampled_from([256, 300, 70_000]))
def test_round_trip_and_random_access(tmp_path_factory, documents: list[list[int]], limit: int, vocab: int) -> None:
    path = tmp_path_factory.mktemp("shards") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BLOCK_BYTES", 8)
        found = write(path, documents, tokenizer=Wide(vocab), limit=limit)
        found.verify()
        assert [ids.tolist() for ids in found] == [[*ids, vocab - 1] for ids in documents]
        flat = np.array([i for ids in documents for i in (*ids, vocab - 1)])
        assert found.num_tokens == len(flat) and len(found) == len(documents)
        np.testing.assert_array_equal(found.lengths(), [len(ids) + 1 for ids in documents])
        for begin in range(len(flat) + 1):
            piece = found.read(begin, len(flat) - begin)
            assert piece.dtype == np.int32
            np.testing.assert_array_equal(piece, flat[begin:])
        for index in reversed(range(len(documents))):
            assert found.document(index).tolist() == [*documents[index], vocab - 1]


def test_what_is_on_disk(tmp_path: Path) -> None:
    found = write(tmp_path / "s", [[1, 2, 3], list(range(20)), [], [7]])
    names = sorted(p.name for p in (tmp_path / "s").iterdir())
    files = [f"{kind}-0000{i}.bin" for kind in ("documents", "tokens") for i in (0, 1)]
    assert names == sorted([*files, MANIFEST]) and sorted(p.name for p in tmp_path.iterdir()) == ["s"]
    values = json.loads((tmp_path / "s" / MANIFEST).read_text())
    assert (values["magic"], values["version"], values["dtype"]) == ("ghost_native.shards", 1, "uint16")
    assert values["tokenizer"] == {"kind": "bytes", "vocab_size": 262, "fingerprint": "bytes"}
    assert (values["num_tokens"], values["num_documents"], values["num_bytes"]) == (28, 4, 24)
    first = tmp_path / "s" / "tokens-00000.bin"
    raw = first.read_bytes()
    assert raw == np.array([1, 2, 3, END, *range(20), END], "<u2").tobytes()
    assert values["tokens"][0]["sha256"] == hashlib.sha256(raw).hexdigest()
    ends = (tmp_path / "s" / "documents-00000.bin").read_bytes()
    assert ends == np.array([4, 25], "<u8").tobytes()
    assert found.manifest.tokens[0].size == len(raw)
    assert write(tmp_path / "t", [[1]], tokenizer=ByteTokenizer(byte_end=True)).manifest.dtype == "uint8"
    assert [dtype_for(n) for n in (256, 257, 65536, 65537)] == ["uint8", "uint16", "uint16", "uint32"]


def test_documents_may_come_in_pieces(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s", ByteTokenizer(), shard_tokens=4) as writer:
        for part, more in ((b"abc", True), (b"def", True), (b"g", False), (b"x", False)):
            writer.add(np.frombuffer(part, np.uint8), more=more)
    found = Shards(tmp_path / "s")
    assert [bytes(ids[:-1].tolist()) for ids in found] == [b"abcdefg", b"x"]
    assert len(found.manifest.tokens) == 2


def test_damage_is_found_where_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK_BYTES", 16)
    path = tmp_path / "s"
    write(path, [list(range(40))], limit=1000)
    file = path / "tokens-00000.bin"
    data = bytearray(file.read_bytes())
    data[37] ^= 1
    file.write_bytes(data)
    found = Shards(path)
    found.read(0, 16)  # blocks 0 and 1
    for reading in (lambda: found.read(18, 1), lambda: found.document(0), found.verify):
        with pytest.raises(ValueError, match=r"tokens-00000.bin is damaged between bytes 32 and 48: its SHA-256 does"):
            reading()
    found.read(24, 17)


@pytest.mark.parametrize("name", ["tokens-00000.bin", "documents-00000.bin"])
def test_a_wrong_length_or_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s"
    write(path, [[1, 2, 3]])
    file = path / name
    data = file.read_bytes()
    for content, message in ((data[:-1], "is cut short: "), (data + b"x", "is too long: ")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"\[Shards\] .*{name} {message}{len(content)} bytes, the manifest says"):
            Shards(path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing; make the shards anew"):
        Shards(path)


def test_manifests_that_are_none_or_altered_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write(path, [[1, 2, 3]])
    manifest = path / MANIFEST
    good = manifest.read_text()
    for text in ("", "{", "[]", '{"magic": "other"}', "\xff"):
        manifest.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"manifest.json is not a manifest of shards"):
            Shards(path)
    manifest.write_text(good)
    alter(manifest, version=2)
    with pytest.raises(ValueError, match="is of version 2, this program reads 1"):
        Shards(path)
    manifest.write_text(good.replace('"num_tokens": 4', '"num_tokens": 5'))
    with pytest.raises(ValueError, match="has been altered: its SHA-256 does not fit"):
        Shards(path)
    manifest.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no manifest.json; make shards with `ghost-native data shard`"):
        Shards(path)
    with pytest.raises(FileNotFoundError, match=r"no such folder of shards: .*none"):
        Shards(tmp_path / "none")


def test_a_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s", [[1, 2, 3]])
    with pytest.raises(ValueError, match=r"was made with another tokenizer \(bytes, 262 ids\), given bytes with 300"):
        Shards(tmp_path / "s", Wide(300))
    with pytest.raises(ValueError, match="given ghost-bytes with 262; use that one, or make the shards anew"):
        open_source(tmp_path / "s", ByteTokenizer(byte_end=True), 1, 2)
    with pytest.raises(ValueError, match="shards hold plain tokens, stage 'sft' needs rows"):
        open_source(tmp_path / "s", ByteTokenizer(), 1, 2, stage="sft")


def test_out_of_range(tmp_path: Path) -> None:
    found = write(tmp_path / "s", [[1, 2, 3]])
    for begin, length in ((0, 5), (-1, 2), (4, 1)):
        with pytest.raises(IndexError, match=rf"tokens {begin} to {begin + length} are out of range, .* holds 4"):
            found.read(begin, length)
    with pytest.raises(IndexError, match=r"there is no document 1, .* holds 1"):
        found.document(1)


def test_writing_errors_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        pytest.raises(ValueError, match=r"\[ShardWriter\] there are no documents to write"),
        ShardWriter(path, ByteTokenizer()),
    ):
        pass
    for bad in ([262], [-1]):
        with pytest.raises(ValueError, match=r"text of this tokenizer has 0 to 261"):
            write(path, [[1], bad])
    with (
        pytest.raises(ValueError, match="the last document was not finished"),
        ShardWriter(path, ByteTokenizer()) as writer,
    ):
        writer.add(np.array([1]))
        writer.add(np.array([1]), more=True)
    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error), ShardWriter(path, ByteTokenizer(), shard_tokens=1) as writer:
            writer.add(np.array([1]))
            writer.add(np.array([2]), more=True)
            raise error
    assert list(tmp_path.iterdir()) == []
    write(path, [[1]])
    with pytest.raises(FileExistsError, match="s exists; remove it or choose another name"):
        write(path, [[2]])
    assert Shards(path).document(0).tolist() == [1, END]
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none; make it first"):
        write(tmp_path / "none" / "s", [[1]])
    with pytest.raises(ValueError, match="shard_tokens is 0, at least 1 is needed"):
        ShardWriter(path, ByteTokenizer(), shard_tokens=0)


_FILL = """
import sys, numpy as np
from ghost_native.data import ByteTokenizer, ShardWriter
with ShardWriter(sys.argv[1], ByteTokenizer()) as writer:
    while True:
        writer.add(np.ones(100_000, np.int32))
        print("written", flush=True)
"""


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        [sys.executable, "-c", _FILL, str(tmp_path / "s")], preexec_fn=limit, capture_output=True, text=True, timeout=60
    )
    assert done.stderr.strip().splitlines()[-1].startswith("OSError: [Errno 27] File too large")
    assert list(tmp_path.iterdir()) == []


def test_kill_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _FILL, str(tmp_path / "s")], stdout=subprocess.PIPE, env={**os.environ}
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "s").exists()


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """104 tokens, each with its own id, in two files."""

    path = tmp_path_factory.mktemp("shards") / "s"
    with ShardWriter(path, Wide(104), shard_tokens=10) as writer:
        writer._end = 51  # of the first document alone, so that no id comes twice
        writer.add(np.arange(51))
        writer._end = 103
        writer.add(np.arange(52, 103))
    return Shards(path)


@pytest.mark.parametrize(("batch", "seqlen", "run"), [(2, 5, 1), (3, 4, 2), (1, 50, 1), (4, 102, 3), (7, 1, 1)])
def test_a_pass_visits_everything_once(numbered: Shards, batch: int, seqlen: int, run: int) -> None:
    source = ShardSource(numbered, batch, seqlen, 5, run=run)
    stretches = max(1, numbered.num_tokens // (run * seqlen))
    taken: list[np.ndarray] = []
    while len(taken) < 4 * stretches:
        windows = list(islice(source, run))
        assert [window.fresh for window in windows] == [True] + [False] * (run - 1)
        for row in range(batch):
            joined = np.concatenate([window.tokens[row] for window in windows])
            ahead = np.concatenate([window.targets[row] for window in windows])
            np.testing.assert_array_equal(joined, (joined[0] + np.arange(len(joined))) % 104)
            np.testing.assert_array_equal(ahead, (joined + 1) % 104)
            taken.append(joined)
    orders = []
    for number in range(4):
        one = taken[number * stretches : (number + 1) * stretches]
        if run * seqlen < 104:
            assert len(np.unique(np.concatenate(one))) == stretches * run * seqlen
        orders.append(tuple(int(piece[0]) for piece in one))
    assert len(set(orders)) > 1


@pytest.mark.parametrize("taken", [0, 1, 2, 9, 40, 41])
@pytest.mark.parametrize("run", [1, 3])
def test_restore_is_exact(numbered: Shards, taken: int, run: int) -> None:
    assert_restores(lambda: ShardSource(numbered, 3, 7, 2, run=run), taken, then=30)


def test_shard_source_errors(numbered: Shards, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[ShardSource\] .* holds 104 tokens, at least seqlen \+ 1 = 105 are needed"):
        ShardSource(numbered, 1, 104)
    with pytest.raises(ValueError, match=r"\[ShardSource\] batch is 0"):
        ShardSource(numbered, 0, 1)
    with pytest.raises(ValueError, match=r"\[ShardSource\] run is 0"):
        ShardSource(numbered, 1, 1, run=0)
    source = ShardSource(numbered, 2, 5)
    others = [ShardSource(numbered, 2, 5, 1), ShardSource(numbered, 2, 4), ShardSource(numbered, 2, 5, run=2)]
    others.append(ShardSource(write(tmp_path / "s", [list(range(9))]), 2, 5))
    for other in others:
        with pytest.raises(ValueError, match=r"\[ShardSource.restore\] the state belongs to other data"):
            source.restore(other.state())
    assert source.epoch == 0
    next(source)
    assert source.epoch == pytest.approx(10 / 104)
