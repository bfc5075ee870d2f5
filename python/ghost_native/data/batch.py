"""What training reads: one type of batch, and what every source of batches can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

State = Mapping[str, Any]  # JSON-able


@dataclass(frozen=True)
class TokenBatch:
    """One step's worth of tokens.

    Attributes:
        tokens: (batch, seqlen) int32, what the model is fed.
        targets: (batch, seqlen) int32, what it should say after each token.
        weight: (batch, seqlen) float32, how much each target counts in the loss; None where all count 1.
        fresh: recurrent state carried from the batch before has to start anew with this one.
    """

    tokens: np.ndarray
    targets: np.ndarray
    weight: np.ndarray | None = None
    fresh: bool = False

    @property
    def num_targets(self) -> int:
        """Targets that count."""
        return self.targets.size if self.weight is None else int(np.count_nonzero(self.weight))


@dataclass(frozen=True)
class PreferenceBatch:
    """Two answers to the same prompts: row i of `chosen` is the better one, row i of `rejected` the worse one.

    Both hold the same prompt tokens; `weight` is 1 where the target is part of the answer.
    """

    chosen: TokenBatch
    rejected: TokenBatch


B_co = TypeVar("B_co", covariant=True)


class BatchSource(Protocol[B_co]):
    """An endless iterator of batches of one shape that can be stopped and continued exactly.

    A source made with the same arguments gives the same batches. After `restore(state)` it gives what the source that
    `state` was taken from would have given next; states are small and JSON-able. A state of other data or of other
    arguments is a ValueError.
    """

    batch: int
    seqlen: int

    def __iter__(self) -> Iterator[B_co]: ...

    def __next__(self) -> B_co: ...

    @property
    def epoch(self) -> float:
        """How many times the data has been gone through; whole passes where a share cannot be known."""
        ...

    def state(self) -> State: ...

    def restore(self, state: Any) -> None: ...


def check_shape(name: str, batch: int, seqlen: int) -> None:
    """ValueError unless both are at least 1."""
    for what, value in (("batch", batch), ("seqlen", seqlen)):
        if value < 1:
            raise ValueError(f"[{name}] {what} is {value}, at least 1 is needed")


def foreign(name: str, what: str) -> ValueError:
    """That a state belongs to another source; it may be of a run that chose what is held out in another way."""
    return ValueError(
        f"[{name}.restore] the state belongs to other {what}; give the data, tokenizer, batch, seqlen, seed and number "
        "of processes of the run it came from (data.heldout: 0 without data.heldout_paths where all of the data was "
        "trained on), or begin a new run with its model: train.checkpoint_path, or --init"
    )


def check_state(name: str, state: Any, stream: str, *counts: str) -> None:
    """ValueError unless `state` is a state of the stream with this fingerprint and whole numbers as `counts`."""
    if not isinstance(state, Mapping):
        raise ValueError(f"[{name}.restore] the state is {state!r}, what state() returned is needed")
    if state.get("stream") != stream:
        raise foreign(name, "data or was taken with other arguments")
    for what in counts:
        value = state.get(what)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"[{name}.restore] {what} is {value!r}, a whole number of at least 0 is needed")
