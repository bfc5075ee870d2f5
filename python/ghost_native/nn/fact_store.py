"""Facts on the host: an ordered store of byte strings, packed into fixed arrays for `FactMemory`.

Keys are compared with ASCII case folded and outer white space removed, because the exact matcher reads text that way.
Row 0 of every packed array is the *null fact*: what is answered when nothing stored was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict

import mlx.core as mx
import numpy as np

FactBytes = str | bytes | bytearray | list[int] | tuple[int, ...]

NULL_ROW = 0
PAD_BYTE = 256  # "no byte here": before the start of a stream, left of a key
TERMINATOR = 10  # a newline ends every answer
NULL_VALUE = b"unknown"

HASH_BASE = 0x01000193
_STEP = 16


class PackedFacts(TypedDict):
    """A store as arrays. rows = 1 + facts, padded to a power of two; J and K are padded to multiples of 16.

    - keys (rows, K) int32: folded key bytes, right-aligned, `PAD_BYTE` on the left
    - key_length (rows,) int32: 0 for the null fact and for padding rows
    - key_hash (rows,) uint32: odd; see `polynomial_hash`
    - values (rows, J) int32: value bytes, then the terminator, then zeros
    - value_context (rows, J) uint32: the up to four value bytes before each byte, case folded, nearest in the low byte
    - value_length (rows,) int32: terminator counted; 0 for padding rows
    """

    keys: mx.array
    key_length: mx.array
    key_hash: mx.array
    values: mx.array
    value_context: mx.array
    value_length: mx.array


def as_bytes(data: FactBytes, name: str = "as_bytes") -> bytes:
    """Return `data` as bytes: str is encoded as UTF-8, a list holds integers 0..255. ValueError otherwise."""
    if isinstance(data, str):
        return data.encode("utf-8")
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    if isinstance(data, (list, tuple)):
        for item in data:
            if isinstance(item, bool) or not isinstance(item, (int, np.integer)) or not 0 <= int(item) <= 255:
                raise ValueError(f"[{name}] a list of bytes holds integers from 0 to 255, got {item!r}")
        return bytes(int(item) for item in data)
    raise ValueError(f"[{name}] expected str, bytes or a list of integers from 0 to 255, got {type(data).__name__}")


def fold_case(data: bytes) -> bytes:
    """ASCII upper case to lower case; every other byte stays."""
    return data.lower()


def is_word_byte(values: np.ndarray) -> np.ndarray:
    """True for ASCII letters, digits, underscore and every byte of a multi-byte UTF-8 character."""
    v = np.asarray(values)
    letter = ((v >= 65) & (v <= 90)) | ((v >= 97) & (v <= 122))
    word: np.ndarray = letter | ((v >= 48) & (v <= 57)) | (v == 95) | ((v >= 128) & (v < PAD_BYTE))
    return word


def byte_hashes() -> np.ndarray:
    """One fixed, odd, well-mixed uint32 per byte value and one for `PAD_BYTE`, shape (257,)."""
    x = np.arange(1, 258, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x >> np.uint64(32)).astype(np.uint32)) | np.uint32(1)


_BYTE_HASHES = byte_hashes()


def polynomial_hash(data: bytes) -> int:
    """sum over i of byte_hash[data[-1 - i]] * HASH_BASE**i modulo 2**32, made odd so that 0 can mean "none"."""
    total = 0
    for byte in data:
        total = (total * HASH_BASE + int(_BYTE_HASHES[byte])) & 0xFFFFFFFF
    return total | 1


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


class FactStore:
    """An ordered set of key -> value byte strings.

    `store` and `forget` keep the rows of all other facts in place, so a stream that has just read a key still points
    at the right fact afterwards. Storing a key again replaces its value.

    Args:
        facts: pairs to store, or a mapping.
        max_key, max_value: longest key and value in bytes; they must not exceed those of the `FactMemory`.
    """

    def __init__(
        self,
        facts: Iterable[tuple[FactBytes, FactBytes]] | Mapping[Any, FactBytes] = (),
        *,
        max_key: int = 64,
        max_value: int = 63,
    ) -> None:
        if max_key < 1 or max_value < 1:
            raise ValueError(f"[FactStore] max_key and max_value must be at least 1, got {max_key} and {max_value}")
        self.max_key = max_key
        self.max_value = max_value
        self.version = 0
        self._rows: list[tuple[bytes, bytes] | None] = [None]
        self._row_of: dict[bytes, int] = {}
        self._packed: tuple[tuple[int, int, int, int], PackedFacts] | None = None
        for key, value in facts.items() if isinstance(facts, Mapping) else facts:
            self.store(key, value)

    def _clean(self, key: FactBytes, name: str) -> bytes:
        data = as_bytes(key, name).strip()
        if not data:
            raise ValueError(f"[{name}] the key is empty or white space, at least one byte is needed")
        if len(data) > self.max_key:
            raise ValueError(f"[{name}] the key has {len(data)} bytes, at most {self.max_key} are allowed")
        return data

    def store(self, key: FactBytes, value: FactBytes) -> int:
        """Store or replace one fact and return its row. ValueError: empty or too long key, empty or too long value."""
        name = "FactStore.store"
        key_bytes, value_bytes = self._clean(key, name), as_bytes(value, name)
        if not value_bytes:
            raise ValueError(f"[{name}] the value of {key_bytes!r} is empty, at least one byte is needed")
        if len(value_bytes) > self.max_value:
            raise ValueError(f"[{name}] the value has {len(value_bytes)} bytes, at most {self.max_value} are allowed")
        folded = fold_case(key_bytes)
        row = self._row_of.get(folded)
        if row is None:
            # Rows are not used again: a running stream may still point at a forgotten one.
            row = len(self._rows)
            self._rows.append(None)
            self._row_of[folded] = row
        self._rows[row] = (key_bytes, value_bytes)
        self.version += 1
        return row

    def forget(self, key: FactBytes) -> None:
        """Remove a fact. KeyError when it is not stored, ValueError for something that could not be a key."""
        row = self._row_of.pop(fold_case(self._clean(key, "FactStore.forget")), None)
        if row is None:
            raise KeyError(f"[FactStore.forget] {key!r} is not stored")
        self._rows[row] = None
        self.version += 1

    def row(self, key: FactBytes) -> int:
        """The row of a key, `NULL_ROW` when it is not stored."""
        return self._row_of.get(fold_case(self._clean(key, "FactStore.row")), NULL_ROW)

    def value(self, key: FactBytes) -> bytes:
        """The value of a key. ValueError when it is not stored."""
        fact = self._rows[self.row(key)]
        if fact is None:
            raise ValueError(f"[FactStore.value] {key!r} is not stored")
        return fact[1]

    def facts(self) -> dict[bytes, bytes]:
        """All facts as stored (spelling of the keys kept), in order of their rows."""
        return dict(fact for fact in self._rows if fact is not None)

    def __len__(self) -> int:
        return len(self._row_of)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.facts())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, (str, bytes, bytearray, list, tuple)) and self.row(key) != NULL_ROW

    def to_list(self) -> list[list[str]]:
        """[[key, value], ...] with every byte as one Latin-1 character: JSON-able, and all 256 values round-trip."""
        return [[key.decode("latin-1"), value.decode("latin-1")] for key, value in self.facts().items()]

    @classmethod
    def from_list(cls, pairs: list[list[str]], *, max_key: int = 64, max_value: int = 63) -> FactStore:
        """The inverse of `to_list`. ValueError for anything that `to_list` does not make."""
        store = cls(max_key=max_key, max_value=max_value)
        for pair in pairs:
            if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(p, str) for p in pair)):
                raise ValueError(f"[FactStore.from_list] expected [key, value] pairs of strings, got {pair!r}")
            try:
                store.store(pair[0].encode("latin-1"), pair[1].encode("latin-1"))
            except UnicodeEncodeError as error:
                raise ValueError(f"[FactStore.from_list] {pair!r} holds characters above 255") from error
        return store

    def pack(self, *, min_rows: int = 16, min_key: int = 16, min_value: int = 16) -> PackedFacts:
        """The store as arrays (see `PackedFacts`), cached until the store changes.

        The `min_` sizes make stores of different sizes share one shape, as compiled training wants.
        """
        wanted = (self.version, min_rows, min_key, min_value)
        if self._packed is None or self._packed[0] != wanted:
            self._packed = (wanted, self._build(min_rows, min_key, min_value))
        return self._packed[1]

    def _build(self, min_rows: int, min_key: int, min_value: int) -> PackedFacts:
        rows = 1 << (max(min_rows, len(self._rows)) - 1).bit_length()
        entries: list[tuple[int, bytes, bytes]] = [(NULL_ROW, b"", NULL_VALUE)]
        entries += [(i, fold_case(fact[0]), fact[1]) for i, fact in enumerate(self._rows) if fact is not None]
        key_width = _round_up(max(min_key, *(len(key) for _, key, _ in entries)), _STEP)
        value_width = _round_up(max(min_value, *(len(value) + 1 for _, _, value in entries)), _STEP)
        keys = np.full((rows, key_width), PAD_BYTE, np.int32)
        values, folded = np.zeros((rows, value_width), np.int32), np.zeros((rows, value_width), np.int32)
        key_length, value_length = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        key_hash = np.zeros(rows, np.uint32)
        for row, key, value in entries:
            if key:
                keys[row, key_width - len(key) :] = list(key)
                key_hash[row] = polynomial_hash(key)
            key_length[row] = len(key)
            values[row, : len(value) + 1] = [*value, TERMINATOR]
            folded[row, : len(value)] = list(fold_case(value))  # as the text is read
            value_length[row] = len(value) + 1
        return PackedFacts(
            keys=mx.array(keys),
            key_length=mx.array(key_length),
            key_hash=mx.array(key_hash),
            values=mx.array(values),
            value_context=mx.array(_contexts(folded)),
            value_length=mx.array(value_length),
        )


def _contexts(values: np.ndarray) -> np.ndarray:
    context = np.zeros(values.shape, np.uint32)
    for back in range(4):
        context[:, back + 1 :] |= values[:, : values.shape[1] - back - 1].astype(np.uint32) << np.uint32(8 * back)
    return context
