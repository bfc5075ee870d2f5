"""Batches of windows over documents, contiguous from batch to batch so that recurrent state can be carried."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np

from ghost_native.data.batch import TokenBatch, foreign
from ghost_native.data.corpora import Document
from ghost_native.data.rows import order_of

SEPARATOR = 10  # a newline stands between documents


class BatcherState(TypedDict):
    """Where a batcher stands; JSON-able. `stream` identifies the documents, their order, batch and seqlen."""

    windows: int
    stream: str


class ByteBatcher:
    """An endless iterator of batches over documents.

    The documents, in an order shuffled by `seed` and each followed by one newline, form a ring. Row b starts at b/batch
    of the way round and continues in every batch where its previous window ended, so recurrent state may be carried
    from batch to batch. The bytes are read where they lie: memory-mapped documents stay on disk.

    With `run`, a row stays in one place for that many windows only and then moves to another: the ring is cut into
    stretches of run * seqlen bytes that are visited in an order shuffled anew in every round; what a round leaves over
    at its end, less than a stretch, is where the next one begins cutting. Neighbouring batches then see many documents,
    not a few long ones; carried state has to start anew with every run, whose first batch is `fresh`. Without `run`
    only the first batch of all is.

    Args:
        documents: what to read; empty documents are not allowed.
        batch: rows.
        seqlen: tokens a row and batch.
        seed: order of the documents and stretches; None for that in which the documents are given.
        run: windows a row stays in one place; None to go on round the ring.

    Raises:
        ValueError: batch, seqlen or run below 1, no documents, an empty document, or fewer than seqlen + 1 bytes in
            all.
    """

    def __init__(
        self, documents: Sequence[Document], batch: int, seqlen: int, seed: int | None = 0, *, run: int | None = None
    ) -> None:
        name = "ByteBatcher"
        for what, value in (("batch", batch), ("seqlen", seqlen), ("run", 1 if run is None else run)):
            if value < 1:
                raise ValueError(f"[{name}] {what} is {value}, at least 1 is needed")
        if not documents:
            raise ValueError(f"[{name}] there are no documents, at least one is needed")
        for document in documents:
            if not len(document):
                raise ValueError(f"[{name}] the document {document.name!r} is empty, leave it out")
        self.batch, self.seqlen, self.seed, self.run = batch, seqlen, seed, run
        natural = np.arange(len(documents))
        order = natural if seed is None else np.random.default_rng(seed).permutation(len(documents))
        self.order = [int(i) for i in order]
        self._arrays = [documents[i].array() for i in self.order]
        ends = list(itertools.accumulate(len(array) + 1 for array in self._arrays))
        self._begins = [0, *ends[:-1]]
        self.num_bytes = ends[-1]
        if self.num_bytes < seqlen + 1:
            raise ValueError(
                f"[{name}] the documents hold {self.num_bytes} bytes, at least seqlen + 1 = {seqlen + 1} are needed; "
                "give more text or a smaller seqlen"
            )
        self._rows = [row * self.num_bytes // batch for row in range(batch)]
        self._windows = 0
        self._orders: dict[int, np.ndarray] = {}
        self._stream = self._fingerprint([documents[i] for i in self.order])

    def _fingerprint(self, documents: list[Document]) -> str:
        digest = hashlib.blake2b(f"{self.batch} {self.seqlen} {self.run} {self.seed}".encode(), digest_size=16)
        for document in documents:
            digest.update(f"\n{len(document)} {document.name}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def epoch(self) -> float:
        """How many times as many bytes as the documents hold have been given out."""
        return self._windows * self.batch * self.seqlen / self.num_bytes

    def read(self, begin: int, length: int) -> np.ndarray:
        """`length` bytes of the ring from position `begin` (taken modulo its size), int32."""
        out = np.empty(length, np.int32)
        position, filled = begin % self.num_bytes, 0
        index = bisect.bisect_right(self._begins, position) - 1
        while filled < length:
            array = self._arrays[index]
            piece = array[position - self._begins[index] :][: length - filled]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            if filled < length:
                out[filled] = SEPARATOR
                filled += 1
            index = (index + 1) % len(self._arrays)
            position = self._begins[index]
        return out

    def __iter__(self) -> Iterator[TokenBatch]:
        return self

    def __next__(self) -> TokenBatch:
        rows = np.stack([self.read(begin, self.seqlen + 1) for begin in self._positions()])
        fresh = (self._windows % self.run if self.run else self._windows) == 0
        self._windows += 1
        return TokenBatch(np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:]), fresh=fresh)

    def _positions(self) -> list[int]:
        """Where in the ring each row's next window begins."""
        if self.run is None:
            return [row + self._windows * self.seqlen for row in self._rows]
        length = self.run * self.seqlen
        stretches = max(1, self.num_bytes // length)
        run, window = divmod(self._windows, self.run)
        begins = []
        for row in range(self.batch):
            number, within = divmod(run * self.batch + row, stretches)
            # A round cuts from where the one before ended, so that no bytes are left over in all of them.
            stretch = number * stretches + int(self._order_of_round(number)[within])
            begins.append(stretch * length + window * self.seqlen)
        return begins

    def _order_of_round(self, number: int) -> np.ndarray:
        """The order of the stretches in one round. Rounds are asked for in turn, so the last two are kept."""
        if number not in self._orders:
            stretches = max(1, self.num_bytes // ((self.run or 1) * self.seqlen))
            self._orders = {k: v for k, v in self._orders.items() if k == number - 1}
            self._orders[number] = order_of(stretches, self.seed, number)
        return self._orders[number]

    def state(self) -> BatcherState:
        """Where the iterator stands, for `restore`; JSON-able."""
        return {"windows": self._windows, "stream": self._stream}

    def restore(self, state: BatcherState) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            ValueError: the state belongs to other documents or another batch, seqlen or seed.
        """
        windows = state.get("windows")
        if isinstance(windows, bool) or not isinstance(windows, int) or windows < 0:
            raise ValueError(f"[ByteBatcher.restore] windows is {windows!r}, a whole number of at least 0 is needed")
        if state.get("stream") != self._stream:
            raise foreign("ByteBatcher", "documents or another batch, seqlen or seed")
        self._windows = windows
