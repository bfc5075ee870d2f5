"""Documents of shards that are held out, and the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.data import ShardSource
from ghost_native.data.shard_part import hold_out
from tests.data.examples import assert_restores
from tests.data.test_shards import write


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.floats(0.01, 0.5), st.integers(1, 30))
def test_documents_are_held_out_whole(tmp_path_factory, sizes, share, least):
    path = tmp_path_factory.mktemp("held") / "s"
    documents = [[i % 200] * size for i, size in enumerate(sizes)]
    shards = write(path, documents)
    try:
        parts = hold_out(shards, share, least)
    except ValueError as error:
        assert "holds too little to hold some of it out" in str(error)
        assert shards.num_tokens < 2 * least
        return
    tokens = [part.read(0, part.num_tokens) for part in parts]
    assert sum(map(len, tokens)) == shards.num_tokens and min(map(len, tokens)) >= least
    wanted = min(max(np.ceil(share * shards.num_tokens), least), shards.num_tokens - least)
    assert 0.95 * wanted <= len(tokens[1]) <= wanted
    found = [{int(t) for t in side if t < 256} for side in tokens]
    split = found[0] & found[1]
    assert found[0] | found[1] == set(range(len(sizes))) and len(split) <= 1
    for i in split:  # its end is held out
        assert sizes[i] == max(size for j, size in enumerate(sizes) if j not in found[1] - split)
        assert len(tokens[1]) == wanted
    again = hold_out(shards, share, least)
    assert [part.fingerprints for part in parts] == [part.fingerprints for part in again]
    for part, side in zip(parts, tokens, strict=True):
        for begin in range(0, part.num_tokens, 7):
            np.testing.assert_array_equal(part.read(begin, min(9, part.num_tokens - begin)), side[begin : begin + 9])


@pytest.mark.parametrize(
    ("sizes", "share", "least", "expected"),
    [([4000] * 3, 0.05, 65, 601), ([8000, 10], 0.05, 65, 401), ([10, 8000], 0.05, 65, 401), ([40, 200], 0.05, 65, 65)],
    ids=["three books", "a long and a short one", "a short and a long one", "more than the longest"],
)
def test_of_few_documents_the_end_of_the_longest_is_held_out(tmp_path, sizes, share, least, expected):
    shards = write(tmp_path / "s", [[i] * size for i, size in enumerate(sizes)], limit=1 << 20)
    train, heldout = hold_out(shards, share, least)
    assert heldout.num_tokens == expected and train.num_tokens == shards.num_tokens - expected
    longest = int(np.argmax(sizes))
    assert longest in heldout.read(0, expected) and longest in train.read(0, train.num_tokens)


def test_parts_have_ends(tmp_path):
    part, _ = hold_out(write(tmp_path / "s", [[1] * 9] * 10), 0.2, 1)
    for begin, length in ((0, part.num_tokens + 1), (-1, 1), (part.num_tokens, 1)):
        with pytest.raises(IndexError, match=r"\[ShardPart.read\] tokens .* are out of range, the part holds 80"):
            part.read(begin, length)


def test_shards_are_read_in_their_order(tmp_path):
    shards = write(tmp_path / "s", [list(range(k, k + 9)) for k in range(0, 90, 9)])
    source = ShardSource(shards, 2, 5, None, run=2)
    read = np.concatenate([np.concatenate([next(source).tokens for _ in range(2)], 1).ravel() for _ in range(15)])
    np.testing.assert_array_equal(read, np.tile(shards.read(0, shards.num_tokens), 3))
    assert_restores(lambda: ShardSource(shards, 2, 5, None, run=2), 17)


def test_an_order_of_its_own_needs_no_memory():
    class Endless:
        """More tokens than an order of them could be written down for."""

        path, num_tokens, fingerprints = Path("endless"), 10**15, ("endless",)

        def read(self, begin: int, length: int) -> np.ndarray:
            return np.arange(begin, begin + length).astype(np.int32)

    source = ShardSource(Endless(), 2, 5, None, run=2)
    read = np.concatenate([next(source).tokens for _ in range(2)], 1).ravel()
    np.testing.assert_array_equal(read, np.arange(20))
