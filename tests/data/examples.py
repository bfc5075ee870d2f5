"""Small datasets and helpers of the data tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ghost_native.data.batch import PreferenceBatch, TokenBatch
from ghost_native.data.rows import Position, Row


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tokenizer_text() -> str:
    """Lines of invented words, of which a tokenizer can learn some hundred pieces."""
    random = np.random.default_rng(0)
    syllables = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r")]
    words = ["".join(random.choice(syllables, random.integers(1, 4))) for _ in range(200)] + ["the fox", "over"]
    return "\n".join(" ".join(random.choice(words, 9)) for _ in range(300))


class ListReader:
    """Rows from memory; positions count them."""

    def __init__(self, rows: Sequence[dict[str, Any]], *, name: str = "list", ordered: bool = False) -> None:
        self.values, self.name, self.ordered = list(rows), name, ordered
        self.fingerprint = f"{name} {len(self.values)}"

    def open(self, epoch: int, position: Position | None = None) -> ListCursor:
        return ListCursor(self, position or 0)


class ListCursor:
    def __init__(self, reader: ListReader, number: int) -> None:
        self._reader, self._number = reader, number

    def __iter__(self) -> ListCursor:
        return self

    def __next__(self) -> Row:
        if self._number >= len(self._reader.values):
            raise StopIteration
        self._number += 1
        return Row(self._reader.values[self._number - 1], f"{self._reader.name}:{self._number}")

    def position(self) -> int:
        return self._number

    def share(self) -> float | None:
        return None


def assert_same(a: Any, b: Any) -> None:
    """Two batches are equal bit for bit, flags included."""
    assert type(a) is type(b)
    if isinstance(a, PreferenceBatch):
        assert_same(a.chosen, b.chosen)
        assert_same(a.rejected, b.rejected)
        return
    assert isinstance(a, TokenBatch)
    assert a.tokens.dtype == a.targets.dtype == np.int32
    assert a.tokens.flags.c_contiguous and a.targets.flags.c_contiguous
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.targets, b.targets)
    assert a.fresh == b.fresh and (a.weight is None) == (b.weight is None)
    if a.weight is not None and b.weight is not None:
        assert a.weight.dtype == np.float32
        np.testing.assert_array_equal(a.weight, b.weight)


def assert_restores(make: Any, taken: int, then: int = 6) -> None:
    """A source continued from the JSON of its state gives what the first one gives; so does a used one."""
    first = make()
    list(islice(first, taken))
    state = json.loads(json.dumps(first.state()))
    expected = list(islice(first, then))
    again, used = make(), make()
    list(islice(used, 3))
    for source in (again, used):
        source.restore(state)
        assert json.loads(json.dumps(source.state())) == state
        for a, b in zip(expected, islice(source, then), strict=True):
            assert_same(a, b)
