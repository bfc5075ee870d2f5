"""Some rows of every batch of a source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ghost_native.data.batch import BatchSource, State, TokenBatch


class RowShare:
    """A source of the rows `begin` to `begin + batch` of another one's batches; their states are the same.

    Several processes that read one source so, each its own rows, together read what one with larger batches would.

    Args:
        source: it must not be used by others from now on.
        begin: the first row.
        batch: rows.

    Raises:
        ValueError: the source has no such rows.
    """

    def __init__(self, source: BatchSource[TokenBatch], begin: int, batch: int) -> None:
        if begin < 0 or batch < 1 or begin + batch > source.batch:
            raise ValueError(
                f"[RowShare] given the rows {begin} to {begin + batch}, allowed: some of 0 to {source.batch}"
            )
        self.source, self.begin, self.batch, self.seqlen = source, begin, batch, source.seqlen

    @property
    def epoch(self) -> float:
        """As the source counts, for all rows."""
        return self.source.epoch

    def __iter__(self) -> Iterator[TokenBatch]:
        return self

    def __next__(self) -> TokenBatch:
        whole = next(self.source)
        rows = slice(self.begin, self.begin + self.batch)
        weight = None if whole.weight is None else whole.weight[rows]
        return TokenBatch(whole.tokens[rows], whole.targets[rows], weight, whole.fresh)

    def state(self) -> State:
        return self.source.state()

    def restore(self, state: Any) -> None:
        self.source.restore(state)
