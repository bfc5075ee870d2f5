"""Part of the documents of shards, read as if there were no others: what is trained on, and what is held out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import numpy as np

from ghost_native.data.rows import digest
from ghost_native.data.shards import Shards, read_across


class TokenRing(Protocol):
    """Tokens that can be read anywhere."""

    @property
    def path(self) -> Path: ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def fingerprints(self) -> tuple[str, ...]: ...

    def read(self, begin: int, length: int) -> np.ndarray: ...


class ShardPart:
    """Stretches of the tokens of shards, one after the other.

    Args:
        shards: the tokens.
        begins, ends: (n,) of each stretch, rising.
    """

    def __init__(self, shards: Shards, begins: np.ndarray, ends: np.ndarray) -> None:
        self.path, self._shards = shards.path, shards
        self._sources = begins.astype(np.int64)
        self._begins = np.concatenate([[0], np.cumsum(ends - begins)])
        self.num_tokens = int(self._begins[-1])
        self.fingerprints = (digest("part", *shards.fingerprints, begins.tobytes().hex(), ends.tobytes().hex()),)

    def read(self, begin: int, length: int) -> np.ndarray:
        """(length,) int32: tokens from position `begin` of the part.

        Raises:
            IndexError: it reaches beyond the end.
        """
        return read_across(
            "[ShardPart.read]", "the part", self._begins, begin, length,
            lambda number, within, count: self._shards.read(int(self._sources[number]) + within, count),
        )  # fmt: skip


def hold_out(shards: Shards, share: float, least: int) -> tuple[ShardPart, ShardPart]:
    """What to train on, and what is held out; always the same of the same shards.

    Whole documents are held out, taken in a fixed shuffled order, passing over those that are too long for what is
    still wanted. Where they come to less than 95 % of what is wanted, as of few long ones, the end of the longest
    document makes up for the rest.

    Args:
        shards: all of the tokens.
        share: of the tokens to hold out, above 0.
        least: tokens that either side needs; `share` gives way to it.

    Raises:
        ValueError: there are too few tokens for both sides.
    """
    lengths, total = shards.lengths(), shards.num_tokens
    if total < 2 * least:
        raise ValueError(
            f"[hold_out] {shards.path} holds too little to hold some of it out: given {total} tokens, allowed: at "
            f"least {2 * least}, {least} for either side; set data.heldout: 0, name data.heldout_paths, or lower "
            "data.seq_len"
        )
    wanted = min(max(math.ceil(share * total), least), total - least)
    slack = min(wanted // 20, wanted - least)
    ends = np.cumsum(lengths)
    held, missing = _whole(lengths, wanted, slack)
    if missing > slack:
        longest = int(np.where(held, 0, lengths).argmax())  # longer than what is missing, or it was taken
        ends = np.insert(ends, longest, ends[longest] - missing)
        held = np.insert(held, longest + 1, True)
    begins = np.concatenate([[0], ends[:-1]])
    return _joined(shards, begins[~held], ends[~held]), _joined(shards, begins[held], ends[held])


def _whole(lengths: np.ndarray, wanted: int, slack: int) -> tuple[np.ndarray, int]:
    """(documents,) which are held out whole, and how many tokens are missing then: up to `slack` if that can be."""
    held = np.zeros(len(lengths), bool)
    left = np.random.default_rng(0).permutation(len(lengths))
    missing = wanted
    while missing > slack:
        left = left[lengths[left] <= missing]
        sums = np.cumsum(lengths[left])
        count = int(np.searchsorted(sums, missing, "right"))  # at least one, for all of them fit alone
        if not count:
            break
        held[left[:count]] = True
        missing -= int(sums[count - 1])
        left = left[count:]
    return held, missing


def _joined(shards: Shards, begins: np.ndarray, ends: np.ndarray) -> ShardPart:
    """Neighbouring documents as one stretch."""
    apart = begins[1:] != ends[:-1]
    first, last = np.concatenate([[True], apart]), np.concatenate([apart, [True]])
    return ShardPart(shards, begins[first[: len(begins)]], ends[last[: len(ends)]])
