"""Batches from pre-tokenized shards, anywhere in them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ghost_native.data.batch import State, TokenBatch, check_shape, check_state
from ghost_native.data.rows import digest
from ghost_native.data.shard_part import TokenRing


class ShardSource:
    """An endless iterator of batches over shards in a shuffled order.

    The tokens form a ring that is cut into stretches of run * seqlen tokens; every pass visits each once, in an order
    shuffled anew, and begins cutting somewhere else, so that what one pass leaves over at the end (less than a
    stretch) belongs to another. A row stays in its stretch for `run` batches; the first of them is `fresh`.

    Args:
        shards: the tokens: `Shards`, or part of them.
        batch: rows of a batch.
        seqlen: tokens of each.
        seed: of the order; None to go round the ring from its beginning.
        run: windows for which a row continues.

    Raises:
        ValueError: batch, seqlen or run below 1, or fewer than seqlen + 1 tokens.
    """

    def __init__(self, shards: TokenRing, batch: int, seqlen: int, seed: int | None = 0, *, run: int = 1) -> None:
        check_shape("ShardSource", batch, seqlen)
        if run < 1:
            raise ValueError(f"[ShardSource] run is {run}, at least 1 is needed")
        if shards.num_tokens < seqlen + 1:
            raise ValueError(
                f"[ShardSource] {shards.path} holds {shards.num_tokens} tokens, at least seqlen + 1 = {seqlen + 1} are "
                "needed"
            )
        self.shards, self.batch, self.seqlen, self.seed, self.run = shards, batch, seqlen, seed, run
        self._stretches = max(1, shards.num_tokens // (run * seqlen))
        self._windows = 0
        self._passes: dict[int, tuple[int, Sequence[int] | np.ndarray]] = {}
        self._stream = digest("shards", batch, seqlen, seed, run, *shards.fingerprints)

    @property
    def epoch(self) -> float:
        """How many times as many tokens as there are have been given out."""
        return self._windows * self.batch * self.seqlen / self.shards.num_tokens

    def _pass(self, number: int) -> tuple[int, Sequence[int] | np.ndarray]:
        """Where a pass begins cutting, and the order of its stretches. The last two are kept."""
        if self.seed is None:
            return number * self._stretches * self.run * self.seqlen, range(self._stretches)
        if number not in self._passes:
            random = np.random.default_rng([self.seed, number])
            shift = int(random.integers(self.shards.num_tokens)) if number else 0
            self._passes = {k: v for k, v in self._passes.items() if k == number - 1}
            self._passes[number] = (shift, random.permutation(self._stretches))
        return self._passes[number]

    def _read(self, begin: int) -> np.ndarray:
        """(seqlen + 1,) tokens of the ring."""
        size, length = self.shards.num_tokens, self.seqlen + 1
        begin %= size
        first = self.shards.read(begin, min(length, size - begin))
        return first if len(first) == length else np.concatenate([first, self.shards.read(0, length - len(first))])

    def __iter__(self) -> Iterator[TokenBatch]:
        return self

    def __next__(self) -> TokenBatch:
        run, window = divmod(self._windows, self.run)
        rows = []
        for row in range(self.batch):
            number, within = divmod(run * self.batch + row, self._stretches)
            shift, order = self._pass(number)
            rows.append(self._read(shift + int(order[within]) * self.run * self.seqlen + window * self.seqlen))
        self._windows += 1
        both = np.stack(rows)
        return TokenBatch(np.ascontiguousarray(both[:, :-1]), np.ascontiguousarray(both[:, 1:]), fresh=window == 0)

    def state(self) -> State:
        """Where the source stands, for `restore`; JSON-able."""
        return {"windows": self._windows, "stream": self._stream}

    def restore(self, state: Any) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            ValueError: the state belongs to other shards or other arguments.
        """
        check_state("ShardSource", state, self._stream, "windows")
        self._windows = state["windows"]
