"""Rows of a dataset, pass after pass, shuffled through a buffer, from any point on.

A reader goes through a dataset once, from any position. A stream makes an endless, shuffled sequence of it whose state
is a position and a few counts: never the contents of the buffer, which are read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from ghost_native.data.batch import State, check_state

Position = Any  # JSON-able, understood by the reader it came from


class Row(NamedTuple):
    """values by field; where it stands, for messages; whether the next row continues the same document."""

    values: Mapping[str, Any]
    where: str
    more: bool = False


class Cursor(Protocol):
    """One pass in progress."""

    def __iter__(self) -> Iterator[Row]: ...

    def __next__(self) -> Row: ...

    def position(self) -> Position:
        """Of the row that comes next."""
        ...

    def share(self) -> float | None:
        """About how much of the pass is done, 0 to 1; None where that is not known."""
        ...


class Reader(Protocol):
    """A dataset that can be gone through from any position.

    Attributes:
        name: for people.
        fingerprint: equal for readers that give the same rows in the same order.
        ordered: rows have to be taken in the order given, because they continue one another or are shuffled already.
    """

    name: str
    fingerprint: str
    ordered: bool

    def open(self, epoch: int, position: Position | None = None) -> Cursor:
        """The pass number `epoch` from a position of the same pass, from its beginning when None."""
        ...


def order_of(size: int, seed: int | None, epoch: int) -> np.ndarray:
    """(size,) the order of one pass: shuffled anew for every pass, or as it is when seed is None."""
    return np.arange(size) if seed is None else np.random.default_rng([seed, epoch]).permutation(size)


def digest(*parts: object) -> str:
    """A fingerprint of the parts."""
    text = "\0".join(map(str, parts))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


class RowStream:
    """An endless iterator of rows that can be stopped and continued exactly.

    Rows are read `buffer` at a time and each such block is given out in an order that depends on the seed, the pass
    and the number of the block. To continue, the block that was being given out is read again.

    Args:
        reader: the dataset.
        seed: of the order within blocks; None leaves rows in the reader's order.
        buffer: rows of a block; readers that are `ordered` are not shuffled again.

    Raises:
        ValueError: buffer below 1; while iterating, a dataset without rows.
    """

    def __init__(self, reader: Reader, seed: int | None = 0, buffer: int = 1) -> None:
        if buffer < 1:
            raise ValueError(f"[RowStream] the shuffle buffer is {buffer}, at least 1 is needed")
        self.reader, self.seed = reader, seed
        self.buffer = 1 if reader.ordered or seed is None else buffer
        self.fingerprint = digest("rows", reader.fingerprint, seed, self.buffer)
        self._start(0, 0, None, 0)

    def _start(self, epoch: int, number: int, position: Position | None, given: int) -> None:
        """Be where `given` rows of block `number` of a pass have been given out."""
        self._epoch, self._number, self._position, self._given = epoch, number, position, given
        self._cursor: Cursor | None = None
        self._block: list[Row] = []

    @property
    def epoch(self) -> int:
        """Passes completed."""
        return self._epoch

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        if self._cursor is None:  # at the beginning, or after restore()
            self._cursor = self.reader.open(self._epoch, self._position)
            self._fill()
            if len(self._block) < self._given:
                raise ValueError(f"[RowStream] {self.reader.name} has fewer rows than when the state was taken")
        while self._given == len(self._block):
            self._advance()
        row = self._block[self._given]
        self._given += 1
        return row

    def _advance(self) -> None:
        """To the next block, or to the first one of the next pass."""
        assert self._cursor is not None
        self._number += 1
        self._position, self._given = self._cursor.position(), 0
        self._fill()
        if not self._block:
            self._epoch += 1
            self._number, self._position = 0, None
            self._cursor = self.reader.open(self._epoch)
            self._fill()
            if not self._block:
                raise ValueError(f"[RowStream] {self.reader.name} holds no rows")

    def _fill(self) -> None:
        assert self._cursor is not None
        block = [row for _, row in zip(range(self.buffer), self._cursor, strict=False)]
        if self.seed is not None and len(block) > 1:
            order = np.random.default_rng([self.seed, self._epoch, self._number]).permutation(len(block))
            block = [block[i] for i in order]
        self._block = block

    def state(self) -> State:
        """Where the stream stands, for `restore`; JSON-able."""
        epoch, number, position, given = self._epoch, self._number, self._position, self._given
        if self._cursor is not None and given == len(self._block) > 0:  # saves reading the block again
            number, position, given = number + 1, self._cursor.position(), 0
        return {"epoch": epoch, "block": number, "position": position, "given": given, "stream": self.fingerprint}

    def restore(self, state: Any) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            ValueError: the state belongs to other data, another seed or another buffer.
        """
        check_state("RowStream", state, self.fingerprint, "epoch", "block", "given")
        self._start(state["epoch"], state["block"], state.get("position"), state["given"])
