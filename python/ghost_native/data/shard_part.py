"""Part of the documents of shards, read as if there were no others: what is trained on, and what is held out."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from ghost_native.data.rows import digest
from ghost_native.data.shards import Shards


class TokenRing(Protocol):
    """Tokens that can be read anywhere."""

    @property
    def path(self) -> Path: ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

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
        self.fingerprint = digest("part", shards.fingerprint, begins.tobytes().hex(), ends.tobytes().hex())

    def read(self, begin: int, length: int) -> np.ndarray:
        """(length,) int32: tokens from position `begin` of the part.

        Raises:
            IndexError: it reaches beyond the end.
        """
        if begin < 0 or length < 0 or begin + length > self.num_tokens:
            raise IndexError(
                f"[ShardPart.read] tokens {begin} to {begin + length} are out of range, the part holds "
                f"{self.num_tokens}"
            )
        out = np.empty(length, np.int32)
        number, filled = int(np.searchsorted(self._begins, begin, "right")) - 1, 0
        while filled < length:
            at = begin + filled
            count = min(length - filled, int(self._begins[number + 1]) - at)
            source = int(self._sources[number]) + at - int(self._begins[number])
            out[filled : filled + count] = self._shards.read(source, count)
            filled += count
            number += 1
        return out


def hold_out(shards: Shards, share: float, least: int) -> tuple[ShardPart, ShardPart]:
    """What to train on, and what is held out: whole documents, always the same of the same shards.

    Documents are taken in a fixed shuffled order, passing over those longer than all that is wanted, until `share` of
    all tokens is reached; where that is fewer than `least`, until these are. A single document is split: its end is
    held out.

    Args:
        shards: all of the tokens.
        share: of the tokens to hold out, above 0.
        least: tokens that either side needs.

    Raises:
        ValueError: there are too few tokens for both sides.
    """
    lengths = shards.lengths()
    wanted = max(share * shards.num_tokens, least)
    ends = np.cumsum(lengths)
    held = np.zeros(len(lengths), bool)
    if len(lengths) == 1:
        cut = shards.num_tokens - int(np.ceil(wanted))
        ends, held = np.array([max(0, cut), shards.num_tokens]), np.array([False, True])
    else:
        order = np.random.default_rng(0).permutation(len(lengths))
        short = order[lengths[order] <= wanted]
        held[short[: int(np.searchsorted(np.cumsum(lengths[short]), wanted)) + 1]] = True
        if lengths[held].sum() < least and not held.all():
            others = np.flatnonzero(~held)
            held[others[lengths[others].argmin()]] = True
    begins = np.concatenate([[0], ends[:-1]])
    train, heldout = (_joined(shards, begins[which], ends[which]) for which in (~held, held))
    if train.num_tokens < least or heldout.num_tokens < least:
        raise ValueError(
            f"[hold_out] {shards.path} holds too little to hold some of it out: given {shards.num_tokens} tokens in "
            f"{len(lengths)} documents, allowed: at least {least} tokens for either side; set data.heldout: 0, name "
            "data.heldout_paths, or lower data.seq_len"
        )
    return train, heldout


def _joined(shards: Shards, begins: np.ndarray, ends: np.ndarray) -> ShardPart:
    """Neighbouring documents as one stretch."""
    apart = begins[1:] != ends[:-1]
    first, last = np.concatenate([[True], apart]), np.concatenate([apart, [True]])
    return ShardPart(shards, begins[first[: len(begins)]], ends[last[: len(ends)]])
