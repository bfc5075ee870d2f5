"""ByteBatcher: contiguity, order, wrap-around, exact restore, errors."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.data.batches import BatcherState, ByteBatcher
from ghost_native.data.corpora import Document

texts = st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=8)


def make(contents: list[bytes]) -> list[Document]:
    return [Document(f"d{i}", data) for i, data in enumerate(contents)]


def ring(contents: list[bytes], batcher: ByteBatcher) -> np.ndarray:
    return np.frombuffer(b"".join(contents[i] + b"\n" for i in batcher.order), np.uint8).astype(np.int32)


@given(texts, st.integers(1, 5), st.integers(1, 40), st.integers(0, 3))
def test_rows_continue_and_wrap(contents: list[bytes], batch: int, seqlen: int, seed: int) -> None:
    if sum(map(len, contents)) + len(contents) < seqlen + 1:
        return
    batcher = ByteBatcher(make(contents), batch, seqlen, seed)
    whole = ring(contents, batcher)
    windows = list(islice(batcher, 6))
    rows = np.concatenate([w.tokens for w in windows], axis=1)
    assert rows.dtype == np.int32 and windows[0].tokens.shape == windows[0].targets.shape == (batch, seqlen)
    for b in range(batch):
        at = (b * len(whole) // batch + np.arange(rows.shape[1])) % len(whole)
        np.testing.assert_array_equal(rows[b], whole[at])
    targets = np.concatenate([w.targets for w in windows], axis=1)
    np.testing.assert_array_equal(targets[:, :-1], rows[:, 1:])


@given(texts, st.integers(0, 7), st.integers(0, 100))
def test_restore_is_exact(contents: list[bytes], taken: int, seed: int) -> None:
    documents = make([b"longer than one window " + c for c in contents])
    first = ByteBatcher(documents, 3, 7, seed)
    list(islice(first, taken))
    state: BatcherState = json.loads(json.dumps(first.state()))
    second = ByteBatcher(documents, 3, 7, seed)
    second.restore(state)
    for a, b in islice(zip(first, second, strict=True), 5):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_array_equal(a.targets, b.targets)


def test_the_seed_decides_the_order() -> None:
    documents = make([bytes([65 + i]) * 9 for i in range(12)])
    orders = [ByteBatcher(documents, 2, 4, seed).order for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == list(range(12))


def test_one_round_gives_every_byte_once() -> None:
    documents = make([bytes([i]) * 8 for i in range(4)])  # with newlines 36 bytes = 3 rows x 12
    batcher = ByteBatcher(documents, 3, 4, 5)
    given_out = np.sort(np.concatenate([b.tokens.ravel() for b in islice(batcher, 3)]))
    np.testing.assert_array_equal(given_out, np.sort(ring([bytes(d.data) for d in documents], batcher)))
    assert batcher.epoch == 1.0


def test_errors() -> None:
    documents = make([b"hello"])
    for kwargs, message in (
        ({"batch": 0, "seqlen": 4}, r"\[ByteBatcher\] batch is 0, at least 1"),
        ({"batch": 1, "seqlen": 0}, r"seqlen is 0, at least 1"),
        ({"batch": 1, "seqlen": 6}, r"hold 6 bytes, at least seqlen \+ 1 = 7 are needed; give more text"),
    ):
        with pytest.raises(ValueError, match=message):
            ByteBatcher(documents, **kwargs)
    with pytest.raises(ValueError, match="there are no documents"):
        ByteBatcher([], 1, 1)
    with pytest.raises(ValueError, match="the document 'd0' is empty"):
        ByteBatcher(make([b""]), 1, 1)


@pytest.mark.parametrize(
    "other",
    [
        ByteBatcher([Document("e", b"hello"), Document("f", b"world")], 2, 3, 0),
        ByteBatcher(make([b"hello", b"there", b"x"]), 2, 3, 0),
        ByteBatcher(make([b"hello", b"there"]), 1, 3, 0),
        ByteBatcher(make([b"hello", b"there"]), 2, 4, 0),
    ],
    ids=["names", "documents", "batch", "seqlen"],
)
def test_a_foreign_state_is_refused(other: ByteBatcher) -> None:
    batcher = ByteBatcher(make([b"hello", b"there"]), 2, 3, 0)
    with pytest.raises(ValueError, match=r"\[ByteBatcher.restore\] the state belongs to other documents"):
        batcher.restore(other.state())


def test_a_broken_state_is_refused() -> None:
    batcher = ByteBatcher(make([b"hello"]), 2, 3, 0)
    with pytest.raises(ValueError, match="windows is -1, a whole number"):
        batcher.restore({**batcher.state(), "windows": -1})


@given(batch=st.integers(1, 4), run=st.integers(1, 5), seed=st.integers(0, 3))
def test_runs_are_contiguous_and_cover_the_ring(batch, run, seed):
    """Within a run a row continues where it stood; the runs of one round visit every stretch once."""
    data = bytes(np.random.default_rng(seed).integers(0, 256, 199, dtype=np.uint8))
    seqlen = 4
    batcher = ByteBatcher([Document("d", data)], batch, seqlen, seed, run=run)
    stretches = batcher.num_bytes // (run * seqlen)
    firsts = []
    for _ in range(2 * stretches):
        windows = [next(batcher) for _ in range(run)]
        for row in range(batch):
            joined = np.concatenate([w.tokens[row] for w in windows])
            begin = (2 * (data + b"\n")).find(bytes(joined.astype(np.uint8).tolist()))
            firsts.append(begin)
            assert np.array_equal(windows[-1].targets[row, :-1], windows[-1].tokens[row, 1:])
    for at in range(0, len(firsts) - stretches + 1, stretches):  # every round begins where the one before ended
        expected = {(at + i) * run * seqlen % batcher.num_bytes for i in range(stretches)}
        assert set(firsts[at : at + stretches]) == expected


def test_runs_restore_exactly():
    documents = [Document("d", bytes(range(256)) * 3)]
    first = ByteBatcher(documents, 3, 5, 7, run=4)
    for _ in range(37):
        next(first)
    again = ByteBatcher(documents, 3, 5, 7, run=4)
    again.restore(first.state())
    for _ in range(60):
        assert np.array_equal(next(first).tokens, next(again).tokens)
    with pytest.raises(ValueError, match="belongs to other documents"):
        ByteBatcher(documents, 3, 5, 7).restore(first.state())


def test_run_must_be_positive():
    with pytest.raises(ValueError, match=r"\[ByteBatcher\] run is 0, at least 1 is needed"):
        ByteBatcher([Document("d", b"hello")], 1, 1, run=0)


def test_fresh_marks_where_carried_state_starts_anew():
    documents = [Document("d", bytes(range(200)))]
    assert [b.fresh for b in islice(ByteBatcher(documents, 2, 5, run=3), 7)] == [True, False, False] * 2 + [True]
    endless = ByteBatcher(documents, 2, 5)
    assert [b.fresh for b in islice(endless, 50)] == [True] + [False] * 49
    assert next(endless).weight is None


@pytest.mark.parametrize("seed", [None, 0, 3])
def test_what_a_round_leaves_over_comes_in_another(seed):
    data = bytes(range(100))
    batcher = ByteBatcher([Document("d", data)], 1, 6, seed, run=5)  # 3 stretches of 30 bytes, and 11 more
    stretches = [np.concatenate([next(batcher).tokens[0] for _ in range(5)]) for _ in range(12)]
    assert set(np.concatenate(stretches[:3]).tolist()) == set(range(90))
    assert set(np.concatenate(stretches[3:6]).tolist()) == {*range(90, 100), 10, *range(79)}
    counts = np.bincount(np.concatenate(stretches), minlength=100)[:100]
    assert counts.min() >= 3
