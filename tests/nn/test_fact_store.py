"""FactStore: what it takes, what it refuses, and that every byte comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghost_native.nn.fact_store import FactStore

FACTS = {"capital of france": "Paris", "age": "12"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("", "v", "the key is empty"),
        (" \n", "v", "the key is empty or white space"),
        ("k", "", "the value of b'k' is empty"),
        ("k" * 65, "v", "the key has 65 bytes, at most 64"),
        ("k", "v" * 64, "the value has 64 bytes, at most 63"),
        ([1, 256], "v", "integers from 0 to 255, got 256"),
        ([True], "v", "integers from 0 to 255, got True"),
        ("k", [-1], "integers from 0 to 255, got -1"),
        (3.5, "v", "expected str, bytes or a list of integers from 0 to 255, got float"),
        ("k", None, "expected str, bytes or a list of integers from 0 to 255, got NoneType"),
    ],
)
def test_store_errors(key: Any, value: Any, message: str) -> None:
    store = FactStore()
    with pytest.raises(ValueError, match=r"\[FactStore.store\]") as error:
        store.store(key, value)
    assert message in str(error.value)
    assert len(store) == 0


def test_store_basics() -> None:
    store = FactStore()
    first = store.store([ord(c) for c in "Capital of France"], b"Lyon")
    assert store.store(" capital of france ", "Paris") == first
    second = store.store("n\xe9e", "caf\xe9")
    assert store.facts() == {b"capital of france": b"Paris", "née".encode(): "café".encode()}
    assert "CAPITAL OF FRANCE" in store
    assert "capital" not in store
    assert store.value("Capital of France") == b"Paris"
    store.forget("capital of France")
    with pytest.raises(KeyError, match=r"\[FactStore.forget\] 'capital of France' is not stored"):
        store.forget("capital of France")
    assert store.row("n\xe9e") == second  # rows of other facts stay
    assert store.store("new", "1") not in (first, second)  # a stream may still point at the forgotten row
    store.forget("new")
    assert len(store) == 1
    with pytest.raises(ValueError, match=r"\[FactStore.value\]"):
        store.value("new")
    with pytest.raises(ValueError, match=r"\[FactStore.from_list\]"):
        FactStore.from_list([["a", 3]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="above 255"):
        FactStore.from_list([["a", "\u2713"]])


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20), max_size=20))
def test_store_round_trips_every_byte(facts: dict[bytes, bytes]) -> None:
    store = FactStore({k: v for k, v in facts.items() if k.strip()})
    again = FactStore.from_list(json.loads(json.dumps(store.to_list())))
    assert again.facts() == store.facts()


def test_pack_is_cached_until_the_store_changes() -> None:
    store = FactStore(FACTS)
    packed = store.pack()
    assert store.pack() is packed
    store.store("another", "one")
    assert store.pack() is not packed
    assert packed["keys"].shape == store.pack()["keys"].shape
