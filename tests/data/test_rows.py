"""Streams of rows: passes, shuffling through the buffer, exact restore."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.data.rows import RowStream
from tests.data.examples import ListReader


def numbers(count: int, **kwargs: object) -> ListReader:
    return ListReader([{"n": i} for i in range(count)], **kwargs)  # type: ignore[arg-type]


def take(stream: RowStream, count: int) -> list[int]:
    return [row.values["n"] for row in islice(stream, count)]


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 3))
def test_every_pass_gives_every_row_once_in_another_order(count: int, buffer: int, seed: int) -> None:
    stream = RowStream(numbers(count), seed, buffer)
    passes = [take(stream, count) for _ in range(3)]
    assert all(sorted(one) == list(range(count)) for one in passes)
    for one in passes:  # no row is further from its place than the buffer reaches
        assert all(i // buffer == n // buffer for i, n in enumerate(one))


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 50), st.integers(0, 3))
def test_restore_is_exact_anywhere(count: int, buffer: int, taken: int, seed: int) -> None:
    stream = RowStream(numbers(count), seed, buffer)
    take(stream, taken)
    state = json.loads(json.dumps(stream.state()))
    again = RowStream(numbers(count), seed, buffer)
    take(again, 5)
    again.restore(state)
    assert take(again, 40) == take(stream, 40)
    assert again.epoch == stream.epoch


def test_order() -> None:
    assert take(RowStream(numbers(5), None, 4), 10) == [0, 1, 2, 3, 4] * 2
    assert take(RowStream(numbers(5, ordered=True), 3, 4), 5) == [0, 1, 2, 3, 4]
    orders = [take(RowStream(numbers(50), seed, 50), 50) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    stream = RowStream(numbers(50), 0, 50)
    assert take(stream, 50) != take(stream, 50)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"\[RowStream\] the shuffle buffer is 0, at least 1 is needed"):
        RowStream(numbers(1), 0, 0)
    with pytest.raises(ValueError, match=r"\[RowStream\] list holds no rows"):
        next(RowStream(numbers(0)))
    stream = RowStream(numbers(5), 0, 4)
    for other in (RowStream(numbers(6), 0, 4), RowStream(numbers(5), 1, 4), RowStream(numbers(5), 0, 3)):
        with pytest.raises(ValueError, match=r"\[RowStream.restore\] the state belongs to other data or was taken"):
            stream.restore(other.state())
    for broken, message in (
        ({**stream.state(), "given": -1}, "given is -1, a whole number of at least 0"),
        ({**stream.state(), "epoch": True}, "epoch is True, a whole number"),
        ("state", "the state is 'state', what state"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.restore(broken)


def test_a_dataset_that_lost_rows_is_noticed() -> None:
    reader = numbers(8)
    stream = RowStream(reader, 0, 4)
    take(stream, 7)
    state = stream.state()
    reader.values = reader.values[:5]
    stream.restore(state)
    with pytest.raises(ValueError, match="list has fewer rows than when the state was taken"):
        next(stream)
