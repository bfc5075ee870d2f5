"""Pre-tokenized text on disk: memory-mapped token files in a folder with a manifest.

    NAME/manifest.json          magic, version, dtype, tokenizer, counts, and of every file its size and SHA-256
    NAME/tokens-00000.bin       token ids, little-endian, document after document, each with its end token
    NAME/documents-00000.bin    uint64, where each document ends, counted in tokens of its file

SHA-256 is kept of every 4 MiB of a file: a piece is checked when it is first read, so that damage is found without
reading everything first. The folder gets its name once all of it is on disk.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ghost_native.data.tokenizer import Tokenizer, special
from ghost_native.models.atomic import atomic_folder

MAGIC = "ghost_native.shards"
VERSION = 1
MANIFEST = "manifest.json"
BLOCK_BYTES = 4 << 20
SHARD_TOKENS = 1 << 27


@dataclass(frozen=True)
class FileInfo:
    """A file: its name, size in bytes, SHA-256 of the whole and of every `BLOCK_BYTES`."""

    name: str
    size: int
    sha256: str
    blocks: list[str]


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds. `tokens` and `documents` pair up, file by file."""

    dtype: str
    tokenizer: dict[str, Any]
    num_tokens: int
    num_documents: int
    num_bytes: int
    tokens: list[FileInfo]
    documents: list[FileInfo]


def dtype_for(num_ids: int) -> str:
    """The smallest unsigned type that holds the ids 0 to num_ids - 1."""
    return "uint8" if num_ids <= 1 << 8 else "uint16" if num_ids <= 1 << 16 else "uint32"


class _HashedFile:
    """A file being written, hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._file: BinaryIO = path.open("wb")
        self._whole, self._block, self._blocks = hashlib.sha256(), hashlib.sha256(), list[str]()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._whole.update(data)
        begin = 0
        while begin < len(data):
            room = BLOCK_BYTES - self.size % BLOCK_BYTES
            piece = data[begin : begin + room]
            self._block.update(piece)
            self.size += len(piece)
            begin += len(piece)
            if self.size % BLOCK_BYTES == 0:
                self._end_block()

    def _end_block(self) -> None:
        self._blocks.append(self._block.hexdigest())
        self._block = hashlib.sha256()

    def finish(self) -> FileInfo:
        if self.size % BLOCK_BYTES:
            self._end_block()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileInfo(self.path.name, self.size, self._whole.hexdigest(), self._blocks)

    def close(self) -> None:
        self._file.close()


class ShardWriter:
    """Writes a folder of shards: `with ShardWriter(path, tokenizer) as writer: writer.add(ids)`.

    Nothing appears at `path` unless the block ends well; then everything is there, synced to disk.

    Args:
        path: the folder to make.
        tokenizer: that the ids come from; its end token is put after every document.
        shard_tokens: a file is closed after the document that brings it to this many tokens.

    Raises:
        FileExistsError: there is something at `path`.
        ValueError: shard_tokens below 1, a tokenizer without end token, at the end no document at all.
    """

    def __init__(self, path: str | Path, tokenizer: Tokenizer, *, shard_tokens: int = SHARD_TOKENS) -> None:
        if shard_tokens < 1:
            raise ValueError(f"[ShardWriter] shard_tokens is {shard_tokens}, at least 1 is needed")
        self.path, self.tokenizer, self.shard_tokens = Path(path), tokenizer, shard_tokens
        (self._end,) = special(tokenizer, "eos")
        self.dtype = dtype_for(tokenizer.num_outputs)
        self.num_tokens = self.num_documents = self.num_bytes = 0
        self._tokens: list[FileInfo] = []
        self._documents: list[FileInfo] = []
        self._file: _HashedFile | None = None
        self._ends: list[int] = []
        self._in_file = 0

    def __enter__(self) -> ShardWriter:
        self._context: AbstractContextManager[Path] = atomic_folder(self.path)
        self._folder = self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            self._close()
            self._context.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._close()
        self._context.__exit__(kind, error, trace)

    def add(self, ids: np.ndarray, *, num_bytes: int = 0, more: bool = False) -> None:
        """Write a document, or with `more` a piece of one that the next call continues.

        Args:
            ids: (n,) whole numbers.
            num_bytes: length of the text, for the manifest.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        if ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < self.tokenizer.num_outputs):
            raise ValueError(
                f"[ShardWriter.add] ids are {int(ids.min())} to {int(ids.max())}, text of this tokenizer has 0 to "
                f"{self.tokenizer.num_outputs - 1}"
            )
        if self._file is None:
            self._file = _HashedFile(self._folder / f"tokens-{len(self._tokens):05}.bin")
        whole = ids if more else np.append(ids, self._end)
        self._file.write(whole.astype(np.dtype(self.dtype).newbyteorder("<")).tobytes())
        self._in_file += len(whole)
        self.num_tokens += len(whole)
        self.num_bytes += num_bytes
        if not more:
            self.num_documents += 1
            self._ends.append(self._in_file)
            if self._in_file >= self.shard_tokens:
                self._finish_file()

    def _finish_file(self) -> None:
        assert self._file is not None
        self._tokens.append(self._file.finish())
        self._file = None
        ends = _HashedFile(self._folder / f"documents-{len(self._documents):05}.bin")
        try:
            ends.write(np.array(self._ends, "<u8").tobytes())
            self._documents.append(ends.finish())
        finally:
            ends.close()
        self._ends, self._in_file = [], 0

    def _finish(self) -> None:
        if not self.num_documents:
            raise ValueError("[ShardWriter] there are no documents to write")
        if self._file is not None:
            if not self._ends or self._ends[-1] != self._in_file:
                raise ValueError("[ShardWriter] the last document was not finished")
            self._finish_file()
        tokenizer = {
            "kind": self.tokenizer.kind, "vocab_size": self.tokenizer.vocab_size,
            "fingerprint": self.tokenizer.fingerprint,
        }  # fmt: skip
        manifest = Manifest(
            self.dtype, tokenizer, self.num_tokens, self.num_documents, self.num_bytes, self._tokens, self._documents
        )
        values = {"magic": MAGIC, "version": VERSION, **asdict(manifest)}
        values["sha256"] = _hash_of(values)
        with (self._folder / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=1)
            file.flush()
            os.fsync(file.fileno())

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


def _hash_of(values: dict[str, Any]) -> str:
    """SHA-256 of a manifest's values, its own hash left out."""
    rest = {key: value for key, value in values.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """The manifest of a folder of shards.

    Raises:
        FileNotFoundError: no such folder, or no manifest in it.
        ValueError: it is no manifest of shards, of another version, or altered.
    """
    name = "Shards"
    file = path / MANIFEST
    if not path.is_dir():
        raise FileNotFoundError(f"[{name}] no such folder of shards: {path}")
    if not file.is_file():
        raise FileNotFoundError(f"[{name}] {path} has no {MANIFEST}; make shards with `ghost-native data shard`")
    try:
        values = json.loads(file.read_bytes())
        known = isinstance(values, dict) and values.get("magic") == MAGIC
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"[{name}] {file} is not a manifest of shards")
    if values.get("version") != VERSION:
        raise ValueError(f"[{name}] {file} is of version {values.get('version')}, this program reads {VERSION}")
    if values.get("sha256") != _hash_of(values):
        raise ValueError(f"[{name}] {file} has been altered: its SHA-256 does not fit; make the shards anew")
    fields = {key: value for key, value in values.items() if key not in ("magic", "version", "sha256")}
    for kind in ("tokens", "documents"):
        fields[kind] = [FileInfo(**info) for info in fields[kind]]
    return Manifest(**fields)


class _CheckedFile:
    """A memory-mapped file whose pieces are checked when first read."""

    def __init__(self, folder: Path, info: FileInfo, dtype: str) -> None:
        self.path = folder / info.name
        if not self.path.is_file():
            raise FileNotFoundError(f"[Shards] {self.path} is missing; make the shards anew")
        size = self.path.stat().st_size
        if size != info.size:
            what = "cut short" if size < info.size else "too long"
            raise ValueError(f"[Shards] {self.path} is {what}: {size} bytes, the manifest says {info.size}")
        with self.path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.array = np.frombuffer(self._map, np.dtype(dtype).newbyteorder("<"))
        self._blocks, self._good = info.blocks, np.zeros(len(info.blocks), bool)

    def read(self, begin: int, end: int) -> np.ndarray:
        """Elements begin to end, checked."""
        width = self.array.itemsize
        for block in range(begin * width // BLOCK_BYTES, -(-end * width // BLOCK_BYTES)):
            if not self._good[block]:
                data = memoryview(self._map)[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
                if hashlib.sha256(data).hexdigest() != self._blocks[block]:
                    raise ValueError(
                        f"[Shards] {self.path} is damaged between bytes {block * BLOCK_BYTES} and "
                        f"{block * BLOCK_BYTES + len(data)}: its SHA-256 does not fit; make the shards anew"
                    )
                self._good[block] = True
        return self.array[begin:end]


class Shards:
    """A folder of shards, to be read anywhere without loading it.

    Args:
        path: the folder.
        tokenizer: that it is to be used with; None to leave that unchecked.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ValueError: not a folder of shards, altered, of a wrong length, or made with another tokenizer; while reading,
            a damaged piece.
    """

    def __init__(self, path: str | Path, tokenizer: Tokenizer | None = None) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        made_with = self.manifest.tokenizer
        if tokenizer is not None and tokenizer.fingerprint != made_with["fingerprint"]:
            raise ValueError(
                f"[Shards] {self.path} was made with another tokenizer ({made_with['kind']}, {made_with['vocab_size']} "
                f"ids), given {tokenizer.kind} with {tokenizer.vocab_size}; use that one, or make the shards anew"
            )
        self._tokens = [_CheckedFile(self.path, info, self.manifest.dtype) for info in self.manifest.tokens]
        self._ends = [_CheckedFile(self.path, info, "uint64") for info in self.manifest.documents]
        self._token_begins = _begins(self._tokens)
        self._document_begins = _begins(self._ends)

    @property
    def num_tokens(self) -> int:
        return self.manifest.num_tokens

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of every file; equal for shards that hold the same tokens."""
        return tuple(info.sha256 for info in self.manifest.tokens)

    def __len__(self) -> int:
        """Documents."""
        return self.manifest.num_documents

    def read(self, begin: int, length: int) -> np.ndarray:
        """(length,) int32: tokens from position `begin` of all files one after the other.

        Raises:
            IndexError: it reaches beyond the end.
        """
        return read_across(
            "[Shards.read]", str(self.path), self._token_begins, begin, length,
            lambda number, within, count: self._tokens[number].read(within, within + count),
        )  # fmt: skip

    def document(self, index: int) -> np.ndarray:
        """(n,) int32: the tokens of one document, its end token included.

        Raises:
            IndexError: there is no such document.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"[Shards.document] there is no document {index}, {self.path} holds {len(self)}")
        number = int(np.searchsorted(self._document_begins, index, "right")) - 1
        within = index - int(self._document_begins[number])
        ends = self._ends[number].read(max(0, within - 1), within + 1)
        begin = int(ends[0]) if within else 0
        return self._tokens[number].read(begin, int(ends[-1])).astype(np.int32)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.document(index) for index in range(len(self)))

    def lengths(self) -> np.ndarray:
        """(documents,) int64: tokens of each, end token included."""
        return np.concatenate(
            [np.diff(file.read(0, len(file.array)).astype(np.int64), prepend=0) for file in self._ends]
        )

    def verify(self) -> None:
        """Read and check everything.

        Raises:
            ValueError: a file is damaged.
        """
        for file in (*self._tokens, *self._ends):
            file.read(0, len(file.array))


def read_across(
    who: str, holder: str, begins: np.ndarray, begin: int, length: int, piece: Callable[[int, int, int], np.ndarray]
) -> np.ndarray:
    """(length,) int32: tokens from position `begin` of pieces one after the other.

    Args:
        who, holder: the caller, and what holds the pieces, for messages.
        begins: (pieces + 1,) where each begins, and where the last one ends.
        piece: the tokens of (number of the piece, position within it, how many).

    Raises:
        IndexError: it reaches beyond the end.
    """
    if begin < 0 or length < 0 or begin + length > begins[-1]:
        raise IndexError(f"{who} tokens {begin} to {begin + length} are out of range, {holder} holds {begins[-1]}")
    out = np.empty(length, np.int32)
    number, filled = int(np.searchsorted(begins, begin, "right")) - 1, 0
    while filled < length:
        within = begin + filled - int(begins[number])
        count = min(length - filled, int(begins[number + 1] - begins[number]) - within)
        out[filled : filled + count] = piece(number, within, count)
        filled += count
        number += 1
    return out


def _begins(files: list[_CheckedFile]) -> np.ndarray:
    """Where each file begins among all, and where the last one ends."""
    return np.cumsum([0, *(len(file.array) for file in files)])
