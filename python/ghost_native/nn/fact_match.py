"""The exact matcher of `FactMemory`: which stored key did the text just spell out? No parameters, no host sync.

A key counts when all its bytes were read (ASCII case folded) with word boundaries on both sides; the longest key wins.
It is announced at the first byte after its last one, because only that byte shows that the word ended.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ghost_native import ops
from ghost_native.nn.fact_store import HASH_BASE, PAD_BYTE, PackedFacts, byte_hashes, is_word_byte

_FOLD = np.array([b + 32 if 65 <= b <= 90 else b for b in range(257)], np.int32)
_WORD = is_word_byte(np.arange(257)).astype(np.int32)
_HASHES = byte_hashes()


def byte_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every byte and `PAD_BYTE`: its folded form, its hash, and whether it is of a word."""
    return _FOLD, _HASHES, _WORD


def fold_tokens(tokens: mx.array) -> mx.array:
    """ASCII upper case to lower case, int32; anything above 255 is no byte (`PAD_BYTE`)."""
    return mx.take(mx.array(_FOLD), mx.clip(tokens, 0, PAD_BYTE))


def match_longest(folded: mx.array, facts: PackedFacts, history: int) -> tuple[mx.array, mx.array]:
    """The row announced at each byte.

    Args:
        folded: (batch, history + seqlen) int32 folded bytes; the first `history` columns are the bytes before.
        facts: packed store; its key width must be below `history`.
        history: number of leading columns that are context only.

    Returns:
        row (batch, seqlen) int32, `NULL_ROW` where no key ended just before the byte, and the key's length, int32.
    """
    width = facts["keys"].shape[1]
    if history <= width:
        raise ValueError(f"[match_longest] history must exceed the key width {width}, got {history}")
    return ops.fact_match(
        folded,
        facts["keys"],
        facts["key_length"],
        facts["key_hash"],
        mx.array(_HASHES),
        mx.array(_WORD),
        history,
        HASH_BASE,
    )
