"""Conversations: the template and its masks by hand, packing, truncation, restore, and the errors."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.data import (
    ByteTokenizer,
    ChatSource,
    ChatTemplate,
    Message,
    RowStream,
    SentencePieceTokenizer,
    Tokenizer,
    decode,
    open_source,
)
from ghost_native.data.chat import conversation_of, messages_of
from ghost_native.data.rows import Row
from tests.data.examples import ListReader, assert_restores, tokenizer_text, write_lines

BOS, END, PAD, SYSTEM, USER, ASSISTANT = 256, 257, 258, 259, 260, 261


def row(*turns: str) -> dict[str, Any]:
    """A row of messages: "u:text", "a:answer", "s:text"."""
    names = {"u": "user", "a": "assistant", "s": "system"}
    return {"messages": [{"role": names[turn[0]], "content": turn[2:]} for turn in turns]}


def chat(rows: list[dict[str, Any]], batch: int, seqlen: int, **kwargs: Any) -> ChatSource:
    return ChatSource(RowStream(ListReader(rows), None), ByteTokenizer(), batch, seqlen, **kwargs)


def test_the_template_by_hand() -> None:
    template = ChatTemplate(ByteTokenizer())
    found = template.encode([Message("system", "S"), Message("user", "hi"), Message("assistant", "ok"),
                             Message("user", "?"), Message("assistant", "")])  # fmt: skip
    expected = [(BOS, 0), (SYSTEM, 0), (83, 0), (USER, 0), (104, 0), (105, 0), (ASSISTANT, 0), (111, 1), (107, 1),
                (END, 1), (USER, 0), (63, 0), (ASSISTANT, 0), (END, 1)]  # fmt: skip
    assert list(zip(found.tokens.tolist(), found.weight.tolist(), strict=True)) == expected
    assert found.tokens.dtype == np.int32 and found.weight.dtype == np.float32
    assert template.prompt([Message("user", "hi")]).tolist() == [BOS, USER, 104, 105, ASSISTANT]


@pytest.mark.parametrize("kind", ["bytes", "ghost-bytes", "sentencepiece"])
def test_weighted_targets_are_the_answers(kind: str) -> None:
    tokenizer: Tokenizer = ByteTokenizer(byte_end=kind == "ghost-bytes")
    if kind == "sentencepiece":
        tokenizer = SentencePieceTokenizer.train([tokenizer_text()], 380)
    rows = [row("u:what is it?", "a:it is a fox", "u:<|assistant|>no", "a:yes"), row("s:be", "u:1+1", "a:2 = 1+1")]
    source = ChatSource(RowStream(ListReader(rows), None), tokenizer, 1, 100)
    batch = next(source)
    assert batch.weight is not None and batch.fresh
    answers = batch.targets[batch.weight == 1]
    assert decode(tokenizer, answers, specials=True) == "it is a fox<|eos|>yes<|eos|>2 = 1+1<|eos|>"
    assert answers.max() < tokenizer.num_outputs
    assert (batch.targets[batch.weight == 0] == 0).all()
    np.testing.assert_array_equal(batch.tokens[0, 1:][batch.weight[0, :-1] == 1], answers)


def test_packing_by_hand() -> None:
    rows = [row("u:a", "a:b"), row("u:c", "a:d"), row("u:e", "a:fghij")]  # of 6, 6 and 10 tokens
    one = [BOS, USER, 97, ASSISTANT, 98, END]
    two = [BOS, USER, 99, ASSISTANT, 100, END]
    batch = next(chat(rows, 2, 12))
    three = [BOS, USER, 101, ASSISTANT, *b"fghij", END]
    assert batch.weight is not None
    assert batch.tokens.tolist() == [[*one, *two], [*three, PAD, PAD]]
    assert batch.weight.tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]]
    assert batch.targets.tolist() == [[0, 0, 0, 98, END, 0, 0, 0, 0, 100, END, 0],
                                      [0, 0, 0, *b"fghij", END, 0, 0, 0]]  # fmt: skip
    assert batch.num_targets == 10
    alone = next(chat(rows, 3, 12, packing=False))
    assert alone.tokens.tolist() == [one + [PAD] * 6, two + [PAD] * 6, [*three, PAD, PAD]]


def test_truncation_keeps_the_beginning_and_counts_what_is_left_out() -> None:
    rows = [row("u:abc", "a:defgh"), row("u:a long question", "a:x"), row("u:no answer"), row("u:q", "a:r")]
    source = chat(rows, 2, 7)
    batch = next(source)
    assert batch.weight is not None
    assert batch.tokens[0].tolist() == [BOS, USER, *b"abc", ASSISTANT, *b"d"]
    assert batch.targets[0].tolist() == [0, 0, 0, 0, 0, *b"de"] and batch.weight[0].tolist() == [0] * 5 + [1] * 2
    assert batch.tokens[1].tolist() == [BOS, USER, *b"q", ASSISTANT, *b"r", END, PAD]
    assert source.left_out == {"answer cut off": 1, "no answer": 1}


turns = st.lists(st.tuples(st.sampled_from("usa"), st.text("xyz", max_size=6)), min_size=1, max_size=4)


@given(st.lists(turns, min_size=1, max_size=8), st.integers(0, 6), st.booleans(), st.integers(1, 3), st.integers(4, 20))
def test_every_conversation_once_and_restore(
    found: list[list[tuple[str, str]]], taken: int, packing: bool, batch: int, seqlen: int
) -> None:
    rows = [row("u:q", "a:first"), *(row(*(f"{who}:{text}" for who, text in one)) for one in found)]

    def make() -> ChatSource:
        return ChatSource(RowStream(ListReader(rows), 1, 3), ByteTokenizer(), batch, seqlen, packing=packing)

    assert_restores(make, taken)
    template = ChatTemplate(ByteTokenizer())
    order = [conversation_of(one) for one in islice(RowStream(ListReader(rows), 1, 3), 3 * len(rows))]
    whole = [
        template.encode(one).tokens[: seqlen + 1] for one in order if template.encode(one).weight[: seqlen + 1].any()
    ]
    given_out: list[int] = []
    source = make()
    while len(given_out) < 2 * sum(map(len, whole)) / 3 - batch * seqlen:
        for tokens in next(source).tokens:
            given_out += [i for i in tokens.tolist() if i != PAD]
    # The last token of a full window is a target only, so compare without the ends.
    expected = [i for one in whole for i in one.tolist()]
    matched = 0
    for token in expected:
        matched += matched < len(given_out) and given_out[matched] == token
    assert matched == len(given_out)


def test_shapes_of_rows() -> None:
    expected = [Message("user", "q"), Message("assistant", "a")]
    for values in (
        row("u:q", "a:a"),
        {"prompt": "q", "response": "a"},
        {"prompt": "ignored", **row("u:q", "a:a")},  # as UltraChat has it
        {"messages": {"role": ["user", "assistant"], "content": ["q", "a"]}},  # as Arrow may give it
        {"messages": [{"role": "human", "content": "q"}, {"role": "gpt", "content": "a", "extra": 1}]},
        {"messages": ({"role": "prompter", "content": "q"}, {"role": "model", "content": "a"})},
    ):
        assert conversation_of(Row(values, "x")) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "x", "id": 1}, r'f:1 has no field "messages", nor "prompt" and "response", it has \'text\', \'id\''),
        ({"messages": []}, r'f:1: messages are a list of {"role", "content"}, given \[\]'),
        ({"messages": "hi"}, r"f:1: messages are a list of .* given 'hi'"),
        ({"messages": None}, r"f:1: messages are a list of .* given None"),
        ({"messages": [{"role": "user"}]}, r'f:1: message 1 has to be {"role", "content"}, given'),
        ({"messages": ["x" * 99]}, r"f:1: message 1 has to be .*, given 'x{56}\.\.\."),
        ({"messages": [{"role": "tool", "content": ""}]}, "f:1: message 1 is of role 'tool', allowed: system, user, a"),
        ({"messages": [{"role": "user", "content": None}]}, "f:1: the content of message 1 is no text"),
        ({"prompt": "q", "response": None}, "f:1: response is None, text is needed"),
    ],
)
def test_malformed_rows(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\[conversation_of\] " + message):
        conversation_of(Row(values, "f:1"))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"\[ChatSource\] seqlen is 0"):
        chat([], 1, 0)
    with pytest.raises(ValueError, match=r"\[ChatSource\] list holds no answer that begins within 4 tokens; use a lar"):
        next(chat([row("u:much too long", "a:x")], 1, 4))
    with pytest.raises(ValueError, match=r"\[ChatSource.restore\] the state belongs to other data"):
        chat([row("u:q")], 1, 4).restore(chat([row("u:q")], 1, 5).state())
    with pytest.raises(ValueError, match=r"\[messages_of\] here: messages are a list"):
        messages_of(3, "here")
    bare = ByteTokenizer()
    del bare.specials["user"]
    with pytest.raises(ValueError, match="this bytes tokenizer has no 'user' token"):
        ChatTemplate(bare)


@pytest.mark.parametrize("through", ["lines", "parquet"])
def test_from_files(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, through: str) -> None:
    cache = tmp_path_factory.mktemp("cache")
    rows = [row(f"u:question {i}", f"a:answer {i}") for i in range(17)]
    if through == "lines":
        write_lines(tmp_path / "chat.jsonl", rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "chat.parquet", row_group_size=4)

    def make() -> Any:
        return open_source(tmp_path, ByteTokenizer(), 2, 64, stage="sft", shuffle_buffer=5, cache_dir=cache)[0]

    for taken in (0, 2, 5):
        assert_restores(make, taken)
    seen = "".join(decode(ByteTokenizer(), tokens) for batch in islice(make(), 5) for tokens in batch.tokens)
    assert all(f"answer {i}" in seen for i in range(10))
