"""The exact matcher of `FactMemory`: which stored key did the text just spell out? No parameters, no host sync.

A key counts when all its bytes were read (ASCII case folded) with word boundaries on both sides; the longest key wins.
It is announced at the first byte after its last one, because only that byte shows that the word ended.

Candidates come from one prefix sum per text: with an odd base b, the polynomial hash of the bytes [s, e) modulo 2**32
is b**(e-1) * (P[e] - P[s]), P the prefix sums of byte_hash * b**-position, so every key length costs one subtraction
(Karp & Rabin, 1987). The longest candidate is then compared byte by byte, so a hash collision never invents a match.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ghost_native.nn.fact_store import HASH_BASE, NULL_ROW, PAD_BYTE, PackedFacts, byte_hashes, is_word_byte

_INVERSE_BASE = pow(HASH_BASE, -1, 1 << 32)
_FOLD = np.array([b + 32 if 65 <= b <= 90 else b for b in range(257)], np.int32)
_WORD = is_word_byte(np.arange(257))


def fold_tokens(tokens: mx.array) -> mx.array:
    """ASCII upper case to lower case, int32; anything above 255 is no byte (`PAD_BYTE`)."""
    return mx.take(mx.array(_FOLD), mx.clip(tokens, 0, PAD_BYTE))


def _powers(base: int, count: int) -> mx.array:
    """base**0 .. base**(count-1) modulo 2**32."""
    out = np.empty(count, np.uint32)
    value = 1
    for i in range(count):
        out[i] = value
        value = value * base & 0xFFFFFFFF
    return mx.array(out)


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
    total = folded.shape[1]
    terms = mx.take(mx.array(byte_hashes()), folded) * _powers(_INVERSE_BASE, total)
    prefix = mx.pad(mx.cumsum(terms, axis=1), [(0, 0), (1, 0)])  # prefix[:, e]: bytes before e
    word = mx.take(mx.array(_WORD), folded)
    inside_word = mx.pad(word[:, 1:] & word[:, :-1], [(0, 0), (1, 0)])  # [:, s]: bytes s-1 and s belong to one word

    end = mx.arange(history, total)
    start = end[:, None] - mx.arange(1, width + 1)[None]  # (seqlen, key length - 1)
    power = mx.take(_powers(HASH_BASE, total), end - 1)
    hashes = (prefix[:, history:total, None] - mx.take(prefix, start, axis=1)) * power[None, :, None]
    allowed = ~(mx.take(inside_word, start, axis=1) | inside_word[:, history:, None])
    hashes = mx.where(allowed, hashes | mx.array(1, mx.uint32), mx.array(0, mx.uint32))

    length = facts["key_length"]
    found = mx.take(hashes, mx.maximum(length, 1) - 1, axis=2) == facts["key_hash"]
    score = mx.where(found & (length > 0), length, 0)
    row = mx.argmax(score, axis=-1).astype(mx.int32)

    key = mx.take(facts["keys"], row, axis=0)  # (batch, seqlen, width), right-aligned
    text = mx.take(folded, end[:, None] + mx.arange(-width, 0)[None], axis=1)
    same = mx.all((key == text) | (key == PAD_BYTE), axis=-1)
    best = mx.where(same, mx.max(score, axis=-1), 0)
    return mx.where(best > 0, row, NULL_ROW), best
