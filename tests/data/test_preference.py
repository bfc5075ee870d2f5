"""Preference pairs: masks by hand, the same prompt on both sides, cutting, restore, and the errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.data import ByteTokenizer, PreferenceBatch, PreferenceSource, RowStream, open_source
from ghost_native.data.chat import Message
from ghost_native.data.preference import pair_of
from ghost_native.data.rows import Row
from tests.data.examples import ListReader, assert_restores, write_lines

BOS, END, PAD, USER, ASSISTANT = 256, 257, 258, 260, 261


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def source(rows: list[dict[str, Any]], batch: int, seqlen: int, seed: int | None = None) -> PreferenceSource:
    return PreferenceSource(RowStream(ListReader(rows), seed, 3), ByteTokenizer(), batch, seqlen)


def test_by_hand() -> None:
    batch = next(source([pair("q", "yes", "n")], 1, 8))
    for side, answer in ((batch.chosen, b"yes"), (batch.rejected, b"n")):
        whole = [BOS, USER, *b"q", ASSISTANT, *answer, END]
        n = len(answer) + 1
        assert side.weight is not None and side.fresh
        assert side.tokens.tolist() == [(whole + [PAD] * 8)[:8]]
        assert side.targets.tolist() == [([0, 0, 0, *answer, END] + [0] * 8)[:8]]
        assert side.weight.tolist() == [([0, 0, 0] + [1] * n + [0] * 8)[:8]]


def test_cutting_by_hand() -> None:
    """A window of 9 tokens: answers keep at least 4, then prompts their end."""
    batch = next(source([pair("abcdef", "123456", "xy")], 1, 8))
    assert batch.chosen.tokens.tolist() == [[BOS, *b"def", ASSISTANT, *b"123"]]
    assert batch.rejected.tokens.tolist() == [[BOS, *b"def", ASSISTANT, *b"xy", END]]
    assert batch.chosen.targets.tolist() == [[0, 0, 0, 0, *b"1234"]]
    assert batch.rejected.targets.tolist() == [[0, 0, 0, 0, *b"xy", END, 0]]
    # A short prompt leaves the answers more.
    batch = next(source([pair("a", "123456", "xy")], 1, 8))
    assert batch.chosen.tokens.tolist() == [[BOS, USER, *b"a", ASSISTANT, *b"1234"]]
    # Short answers leave the prompt more.
    batch = next(source([pair("abcdef", "1", "x")], 1, 8))
    assert batch.chosen.tokens.tolist() == [[BOS, *b"bcdef", ASSISTANT, *b"1"]]


words = st.text("ab", max_size=12)


@given(st.lists(st.tuples(words, words, words), min_size=1, max_size=6), st.integers(7, 24), st.integers(0, 5))
def test_both_sides_share_the_prompt_and_restore(rows: list[tuple[str, str, str]], seqlen: int, taken: int) -> None:
    made = [pair("q", "x", "y"), *(pair(*row) for row in rows)]

    def make() -> PreferenceSource:
        return source(made, 2, seqlen, seed=1)

    assert_restores(make, taken)
    for _, batch in zip(range(6), make(), strict=False):
        for row in range(2):
            prompts = []
            for side in (batch.chosen, batch.rejected):
                assert side.weight is not None
                begin = int(np.argmax(side.weight[row]))
                prompts.append(side.tokens[row, : begin + 1].tolist())
                assert prompts[-1][0] == BOS and prompts[-1][-1] == ASSISTANT
                answer = side.targets[row][side.weight[row] == 1]
                assert len(answer) >= 1 and (answer[:-1] != END).all()
                assert answer[-1] == END or side.weight[row, -1] == 1  # whole, or cut at the end of the window
            assert prompts[0] == prompts[1]


def test_equal_answers_are_left_out() -> None:
    found = source([pair("q", "same", "same"), pair("q" * 9, "12345", "12346"), pair("q", "a", "b")], 1, 7)
    next(found)
    assert found.left_out == {"equal answers": 1, "answers equal as far as they are kept": 1}


def test_shapes_of_rows() -> None:
    def said(*turns: str) -> list[dict[str, str]]:
        return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]

    answer = {"role": "assistant"}
    for values in (
        pair("q", "yes", "no"),
        {"prompt": "q", "chosen": said("q", "yes"), "rejected": said("q", "no"), "score_chosen": 9.0},  # UltraFeedback
        {"chosen": said("q", "yes"), "rejected": said("q", "no")},
        {"prompt": said("q"), "chosen": [{**answer, "content": "yes"}], "rejected": [{**answer, "content": "no"}]},
        {"prompt": said("q"), "chosen": "yes", "rejected": "no"},
    ):
        assert pair_of(Row(values, "x")) == ([Message("user", "q")], "yes", "no")
    long = pair_of(Row({"chosen": said("a", "b", "c", "d"), "rejected": said("a", "b", "c", "e")}, "x"))
    assert [message.content for message in long.prompt] == ["a", "b", "c"] and long.rejected == "e"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"prompt": "q", "chosen": "a"},
            "f:1 has no field 'rejected', it has 'prompt', 'chosen'; ",
        ),
        ({"chosen": "a", "rejected": "b"}, "f:1 has no prompt"),
        (pair("q", "a", 3), 'f:1, rejected: messages are a list of {"role", "content"}, given 3'),  # type: ignore[arg-type]
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "f:1, prompt: messages are a list of"),
        (
            {"chosen": [{"role": "user", "content": "a"}], "rejected": "b"},
            "f:1: the last message of chosen is of role 'user'",
        ),
        (
            {
                "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                "rejected": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "c"}],
            },
            "f:1: chosen and rejected answer different prompts",
        ),
    ],
)
def test_malformed_rows(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\[pair_of\] ") as raised:
        pair_of(Row(values, "f:1"))
    assert message in str(raised.value)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"\[PreferenceSource\] batch is 0"):
        source([], 0, 8)
    with pytest.raises(ValueError, match=r"\[PreferenceSource\] seqlen is 6, at least 7 is needed"):
        source([], 1, 6)
    with pytest.raises(ValueError, match=r"\[PreferenceSource\] list holds no pair of different answers"):
        next(source([pair("q", "a", "a")], 1, 8))
    with pytest.raises(ValueError, match=r"\[PreferenceSource.restore\] the state belongs to other data"):
        source([pair("q", "a", "b")], 1, 8).restore(source([pair("q", "a", "b")], 2, 8).state())


@pytest.mark.parametrize("workers", [0, 1])
def test_from_files(tmp_path: Path, workers: int) -> None:
    write_lines(tmp_path / "p.jsonl", [pair(f"q{i}", f"good {i}", f"bad {i}") for i in range(9)])

    def make() -> Any:
        return open_source(tmp_path, ByteTokenizer(), 2, 24, stage="preference", num_workers=workers)[0]

    assert isinstance(next(make()), PreferenceBatch)
    for taken in (0, 1, 7):
        assert_restores(make, taken)
