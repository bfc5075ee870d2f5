"""Documents of shards that are held out, and the others."""

from __future__ import annotations

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
        assert shards.num_tokens < 2 * least + max(sizes) + 2 or len(sizes) <= 2
        return
    tokens = [part.read(0, part.num_tokens) for part in parts]
    assert sum(map(len, tokens)) == shards.num_tokens and min(map(len, tokens)) >= least
    if len(sizes) == 1:
        np.testing.assert_array_equal(np.concatenate(tokens), shards.read(0, shards.num_tokens))
        return
    found = [{int(t) for t in side if t < 256} for side in tokens]
    assert not found[0] & found[1] and len(found[0] | found[1]) == len(set(range(min(200, len(sizes)))))
    assert len(tokens[1]) <= max(2 * max(share * shards.num_tokens, least), min(sizes) + 1 + least) + max(sizes)
    again = hold_out(shards, share, least)
    assert [part.fingerprint for part in parts] == [part.fingerprint for part in again]
    for part, side in zip(parts, tokens, strict=True):
        for begin in range(0, part.num_tokens, 7):
            np.testing.assert_array_equal(part.read(begin, min(9, part.num_tokens - begin)), side[begin : begin + 9])


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
