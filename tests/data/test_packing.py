"""Packing: nothing lost, windows by hand, runs, exact restore; and working ahead without a trace."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.data import ByteTokenizer, PackedSource, Prefetched, RowStream
from ghost_native.data.batch import TokenBatch
from tests.data.examples import ListReader, assert_restores, assert_same

END = 257
texts = st.lists(st.text(max_size=12), min_size=1, max_size=8).filter(any)


def source(contents: list[str | None], batch: int, seqlen: int, *, run: int = 1, threads: int = 1) -> PackedSource:
    rows = RowStream(ListReader([{"text": text} for text in contents]), None)
    return PackedSource(rows, ByteTokenizer(), batch, seqlen, run=run, num_threads=threads)


def ring(contents: list[str]) -> np.ndarray:
    return np.array([i for text in contents if text for i in (*text.encode(), END)], np.int32)


def test_by_hand() -> None:
    batches = list(islice(source(["abc", "", "de"], 2, 2), 2))
    a, b, c, d, e = b"abcde"
    np.testing.assert_array_equal(batches[0].tokens, [[a, b], [c, END]])
    np.testing.assert_array_equal(batches[0].targets, [[b, c], [END, d]])
    np.testing.assert_array_equal(batches[1].tokens, [[d, e], [END, a]])
    np.testing.assert_array_equal(batches[1].targets, [[e, END], [a, b]])
    assert batches[0].weight is None and batches[0].fresh and batches[0].num_targets == 4


@given(texts, st.integers(1, 4), st.integers(1, 9), st.integers(1, 3))
def test_no_token_is_lost(contents: list[str], batch: int, seqlen: int, run: int) -> None:
    whole = ring(contents)
    packed = source(list(contents), batch, seqlen, run=run)
    stretches = []
    for _ in range(3):
        windows = list(islice(packed, run))
        assert [window.fresh for window in windows] == [True] + [False] * (run - 1)
        stretches.append(np.concatenate([window.targets for window in windows], axis=1).ravel())
        tokens = np.concatenate([window.tokens for window in windows], axis=1)
        np.testing.assert_array_equal(tokens.ravel()[1:], stretches[-1][:-1][: tokens.size - 1])
    targets = np.concatenate(stretches)
    np.testing.assert_array_equal(targets, whole[(1 + np.arange(targets.size)) % len(whole)])


@given(texts, st.integers(0, 9), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2))
def test_restore_is_exact(contents: list[str], taken: int, batch: int, seqlen: int, run: int, seed: int) -> None:
    def make() -> PackedSource:
        rows = RowStream(ListReader([{"text": text} for text in contents]), seed, 3)
        return PackedSource(rows, ByteTokenizer(), batch, seqlen, run=run)

    assert_restores(make, taken)


def test_threads_change_nothing() -> None:
    contents: list[str | None] = [f"document {i} " * (i % 5) for i in range(60)]
    for a, b in islice(zip(source(contents, 3, 17), source(contents, 3, 17, threads=4), strict=True), 20):
        assert_same(a, b)


def test_errors() -> None:
    for kwargs, message in (
        ({"batch": 0, "seqlen": 1}, r"\[PackedSource\] batch is 0, at least 1"),
        ({"batch": 1, "seqlen": 0}, "seqlen is 0, at least 1"),
        ({"batch": 1, "seqlen": 1, "run": 0}, "run is 0, at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            source(["a"], **kwargs)
    for row, message in (
        ({"content": "x", "url": "y"}, r"list:1 has no field 'text', it has 'content', 'url'; set text_field"),
        ({"text": 5}, r"list:1: the field 'text' is a int, text is needed"),
    ):
        with pytest.raises(ValueError, match=message):
            next(PackedSource(RowStream(ListReader([row])), ByteTokenizer(), 1, 1))
    with pytest.raises(ValueError, match="list holds no text in the field 'text'"):
        next(source(["", None], 1, 4))
    with pytest.raises(ValueError, match=r"\[PackedSource.restore\] the state belongs to other data"):
        source(["a"], 1, 2).restore(source(["a"], 1, 3).state())


def test_prefetched_gives_the_same_and_restores() -> None:
    contents: list[str | None] = [f"document {i}" for i in range(20)]

    def make() -> Prefetched[TokenBatch]:
        return Prefetched(source(contents, 2, 5, run=2), depth=3)

    for a, b in islice(zip(make(), source(contents, 2, 5, run=2), strict=True), 30):
        assert_same(a, b)
    for taken in (0, 1, 4, 7):
        assert_restores(make, taken)
    ahead = make()
    list(islice(ahead, 5))
    ahead.close()  # what was made ahead is not lost
    plain = source(contents, 2, 5, run=2)
    list(islice(plain, 5))
    for a, b in islice(zip(ahead, plain, strict=True), 5):
        assert_same(a, b)
    assert ahead.epoch == plain.epoch
    ahead.close()


def test_prefetched_ends_its_thread_before_python_is_taken_down() -> None:
    script = """
import atexit, threading
atexit.register(lambda: print([t.name for t in threading.enumerate()]))  # the last to be called
from ghost_native.data import Prefetched
from tests.data.test_packing import source
ahead = Prefetched(source(["abcd"], 1, 4))
next(ahead)
assert "prefetch" in [t.name for t in threading.enumerate()]
"""
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout) == (0, "['MainThread']\n"), run.stderr


def test_prefetched_raises_where_the_batch_would_have_been() -> None:
    rows = [{"text": "abcd"}, {"text": "abcd"}, {"content": ""}]
    ahead = Prefetched(PackedSource(RowStream(ListReader(rows), None), ByteTokenizer(), 1, 4))
    before = threading.active_count()
    # Rows are encoded some at a time, so the error comes as soon as its row is among them.
    with pytest.raises(ValueError, match="list:3 has no field 'text'"):
        list(islice(ahead, 4))
    assert threading.active_count() == before
    left = Prefetched(source(["abcd"], 1, 4))
    next(left)
    del left
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(ValueError, match=r"\[Prefetched\] depth is 0"):
        Prefetched(source(["a"], 1, 1), 0)
