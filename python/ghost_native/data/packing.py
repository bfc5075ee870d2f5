"""Documents one after the other, cut into windows: nothing lost, nothing padded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from ghost_native.data.batch import State, TokenBatch, check_shape, check_state
from ghost_native.data.rows import Row, RowStream, digest
from ghost_native.data.tokenizer import Tokenizer, special

_ENCODE_ROWS = 16  # encoded at once, by as many threads as there are
_ENCODE_BYTES = 1 << 18


def text_of(row: Row, field: str, name: str) -> str | bytes:
    """The text of a row; null is empty.

    Raises:
        ValueError: the row has no such field, or it is no text.
    """
    if field not in row.values:
        raise ValueError(
            f"[{name}] {row.where} has no field {field!r}, it has {', '.join(map(repr, row.values))}; set text_field"
        )
    value = row.values[field]
    if value is None:
        return ""
    if not isinstance(value, (str, bytes)):
        raise ValueError(f"[{name}] {row.where}: the field {field!r} is a {type(value).__name__}, text is needed")
    return value


class PackedSource:
    """An endless iterator of batches over the documents of a stream of rows.

    Documents, each followed by the end token, form one sequence of tokens; empty ones are passed over. Batches take
    `batch` stretches of run * seqlen tokens of it, one a row, and give them out in `run` windows: within a run rows
    continue from batch to batch, the first batch of a run is `fresh`. Every token is a target once; a stretch begins
    with the last target of the one before.

    Args:
        rows: the dataset.
        tokenizer: of its text.
        batch: rows of a batch.
        seqlen: tokens of each.
        text_field: which field holds the text.
        run: windows for which rows continue.
        num_threads: encoding documents; it changes nothing in the batches.

    Raises:
        ValueError: batch, seqlen or run below 1, a tokenizer without end token; while iterating, a row without the
            field, or no text at all.
    """

    def __init__(
        self, rows: RowStream, tokenizer: Tokenizer, batch: int, seqlen: int, *, text_field: str = "text", run: int = 1,
        num_threads: int = 1,
    ) -> None:  # fmt: skip
        check_shape("PackedSource", batch, seqlen)
        if run < 1:
            raise ValueError(f"[PackedSource] run is {run}, at least 1 is needed")
        self.rows, self.tokenizer, self.batch, self.seqlen, self.run = rows, tokenizer, batch, seqlen, run
        self._field, self._num_threads = text_field, num_threads
        (self._end,) = special(tokenizer, "eos")
        self._stream = digest("packed", rows.fingerprint, tokenizer.fingerprint, batch, seqlen, run, text_field)
        self._start(rows.state(), 0, 0)

    def _start(self, begin: State, skip: int, window: int) -> None:
        """Be at `window` of the group whose first token is number `skip` from the row that `begin` gives next."""
        self._begin, self._skip, self._window = begin, skip, window
        self._encoded: deque[tuple[State, np.ndarray]] = deque()  # each with the state before its row
        self._group: np.ndarray | None = None  # (batch, run * seqlen + 1)

    @property
    def epoch(self) -> float:
        """Passes through the dataset completed, in reading."""
        return float(self.rows.epoch)

    def _encode(self) -> None:
        """Read and encode some more rows."""
        waiting: list[tuple[State, str | bytes, bool]] = []
        size, epoch = 0, self.rows.epoch
        while len(waiting) < _ENCODE_ROWS and size < _ENCODE_BYTES:
            state = self.rows.state()
            row = next(self.rows)
            text = text_of(row, self._field, "PackedSource")
            if text:
                waiting.append((state, text, row.more))
                size += len(text)
            elif self.rows.epoch > epoch + 1 and not self._encoded and not waiting:
                raise ValueError(f"[PackedSource] {self.rows.reader.name} holds no text in the field {self._field!r}")
        encoded = self.tokenizer.encode_batch([text for _, text, _ in waiting], self._num_threads)
        for (state, _, more), ids in zip(waiting, encoded, strict=True):
            self._encoded.append((state, ids if more else np.append(ids, np.int32(self._end))))

    def _fill(self) -> np.ndarray:
        """The group at the current position. Its tokens stay in `_encoded`, from where `_finish` lets them go."""
        need = self.batch * self.run * self.seqlen + 1
        have = sum(len(ids) for _, ids in self._encoded) - self._skip
        while have < need:
            known = len(self._encoded)
            self._encode()
            have += sum(len(ids) for _, ids in list(self._encoded)[known:])
        tokens = np.concatenate([ids for _, ids in self._encoded])[self._skip : self._skip + need]
        begins = np.arange(self.batch)[:, None] * (self.run * self.seqlen)
        group: np.ndarray = tokens[begins + np.arange(self.run * self.seqlen + 1)]
        return group

    def _finish(self) -> None:
        """To the next group: it begins with the last token of this one."""
        skip = self._skip + self.batch * self.run * self.seqlen
        while skip >= len(self._encoded[0][1]):
            skip -= len(self._encoded.popleft()[1])
        self._start_group(skip)

    def _start_group(self, skip: int) -> None:
        self._begin, self._skip, self._window, self._group = self._encoded[0][0], skip, 0, None

    def __iter__(self) -> Iterator[TokenBatch]:
        return self

    def __next__(self) -> TokenBatch:
        if self._group is None:
            self._group = self._fill()
        at = self._window * self.seqlen
        piece = self._group[:, at : at + self.seqlen + 1]
        fresh = self._window == 0
        self._window += 1
        if self._window == self.run:
            self._finish()
        return TokenBatch(np.ascontiguousarray(piece[:, :-1]), np.ascontiguousarray(piece[:, 1:]), fresh=fresh)

    def state(self) -> State:
        """Where the source stands, for `restore`; JSON-able."""
        return {"rows": self._begin, "skip": self._skip, "window": self._window, "stream": self._stream}

    def restore(self, state: Any) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            ValueError: the state belongs to other data, another tokenizer or other arguments.
        """
        check_state("PackedSource", state, self._stream, "skip", "window")
        self.rows.restore(state.get("rows"))
        self._start(state["rows"], state["skip"], state["window"])
