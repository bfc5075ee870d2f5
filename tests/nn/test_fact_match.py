"""The exact matcher against a plain oracle."""

from __future__ import annotations

import re
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghost_native.nn.fact_match import fold_tokens, match_longest
from ghost_native.nn.fact_store import NULL_ROW, PAD_BYTE, FactStore

WORD = re.compile(rb"[A-Za-z0-9_\x80-\xff]")


def oracle(text: bytes, keys: list[bytes]) -> list[bytes]:
    """The longest whole-word key that ends right before each byte, b'' for none."""
    out = []
    for now in range(len(text)):
        best = b""
        for key in keys:
            begin = now - len(key)
            if begin < 0 or text[begin:now].lower() != key.lower():
                continue
            open_end = WORD.match(text[now - 1 : now]) and WORD.match(text[now : now + 1])
            open_start = begin > 0 and WORD.match(text[begin - 1 : begin]) and WORD.match(text[begin : begin + 1])
            if not open_end and not open_start and len(key) > len(best):
                best = key
        out.append(best)
    return out


def announced(text: bytes, store: FactStore, history: int = 65) -> list[bytes]:
    folded = fold_tokens(mx.array([list(text)]))
    padded = mx.concatenate([mx.full((1, history), PAD_BYTE, mx.int32), folded], axis=1)
    rows, lengths = match_longest(padded, store.pack(), history)
    name = {store.row(key): key.lower() for key in store.facts()} | {NULL_ROW: b""}
    names = [name[row] for row in rows[0].tolist()]
    assert [len(n) for n in names] == lengths[0].tolist()
    return names


small_text = st.text(alphabet="aAbB .\xe9_", min_size=1, max_size=40).map(lambda t: t.encode())
small_key = st.text(alphabet="aAb. \xe9", min_size=1, max_size=6).map(lambda t: t.encode().strip()).filter(bool)


@settings(max_examples=200, deadline=None)
@given(small_text, st.lists(small_key, min_size=1, max_size=12))
def test_matcher_against_a_plain_oracle(text: bytes, keys: list[bytes]) -> None:
    store = FactStore((key, b"v") for key in keys)
    assert announced(text, store) == [key.lower() for key in oracle(text, list(store.facts()))]


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=60), st.data())
def test_matcher_on_any_bytes(text: bytes, data: Any) -> None:
    cuts = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 64))
    keys = [text[a : a + n].strip() for a, n in data.draw(st.lists(cuts, min_size=1, max_size=8))]
    store = FactStore((key, b"v") for key in keys if key)
    assert announced(text, store) == [key.lower() for key in oracle(text, list(store.facts()))]


def test_matcher_examples() -> None:
    store = FactStore({"a": "1", "a b": "2", "x": "3"})
    assert announced(b"a b c", store) == [b"", b"a", b"", b"a b", b""]
    assert announced(b"ab xx", store) == [b""] * 5
    with pytest.raises(ValueError, match=r"\[match_longest\] history must exceed"):
        match_longest(mx.zeros((1, 20), dtype=mx.int32), store.pack(), 16)


def test_a_hash_collision_is_not_a_match() -> None:
    """Sentinel: with every hash equal, only the byte comparison is left to refuse."""
    store = FactStore({"abc": "1"})
    packed = store.pack()
    other = FactStore({"xyz": "1"}).pack()
    forged = {**packed, "key_hash": other["key_hash"]}
    folded = mx.concatenate([mx.full((1, 17), PAD_BYTE, mx.int32), fold_tokens(mx.array([list(b"xyz abc ")]))], axis=1)
    rows, _ = match_longest(folded, forged, 17)  # type: ignore[arg-type]
    assert not mx.any(rows).item()
