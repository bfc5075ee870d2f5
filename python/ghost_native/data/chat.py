"""Conversations: from rows to tokens, and to batches whose loss counts answers only.

A conversation is written as

    <|bos|> <|system|>text <|user|>text <|assistant|>answer<|eos|> <|user|>text <|assistant|>answer<|eos|> ...

without the spaces. The special tokens are single ids that text cannot contain. Loss weight is 1 for the tokens of
answers and for the end token after each, 0 for everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ghost_native.data.batch import State, TokenBatch, check_shape, check_state
from ghost_native.data.rows import Row, RowStream, digest
from ghost_native.data.tokenizer import Tokenizer, special

ROLES = ("system", "user", "assistant")
_ALIASES = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


class Message(NamedTuple):
    """role is one of `ROLES`."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """tokens (n,) int32, and weight (n,) float32: 1 where the token is part of an answer."""

    tokens: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


def messages_of(value: Any, where: str, name: str = "messages_of") -> list[Message]:
    """Messages out of a row: a list of {"role", "content"}, or a table of two such columns.

    Raises:
        ValueError: another shape, an unknown role or a content that is no text, with the place.
    """
    if isinstance(value, Mapping) and {"role", "content"} <= value.keys():
        value = [{"role": r, "content": c} for r, c in zip(value["role"], value["content"], strict=True)]
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        raise ValueError(f'[{name}] {where}: messages are a list of {{"role", "content"}}, given {_short(value)}')
    found = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise ValueError(
                f'[{name}] {where}: message {number + 1} has to be {{"role", "content"}}, given {_short(message)}'
            )
        role = _ALIASES.get(message["role"], message["role"])
        if role not in ROLES:
            raise ValueError(f"[{name}] {where}: message {number + 1} is of role {role!r}, allowed: {', '.join(ROLES)}")
        if not isinstance(message["content"], str):
            raise ValueError(f"[{name}] {where}: the content of message {number + 1} is no text")
        found.append(Message(role, message["content"]))
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def conversation_of(row: Row) -> list[Message]:
    """The messages of a row: its field "messages", or else "prompt" and "response".

    Raises:
        ValueError: the row has neither, or they are malformed.
    """
    values, name = row.values, "conversation_of"
    if "messages" in values:
        return messages_of(values["messages"], row.where, name)
    if "prompt" in values and "response" in values:
        for field in ("prompt", "response"):
            if not isinstance(values[field], str):
                raise ValueError(f"[{name}] {row.where}: {field} is {_short(values[field])}, text is needed")
        return [Message("user", values["prompt"]), Message("assistant", values["response"])]
    raise ValueError(
        f'[{name}] {row.where} has no field "messages", nor "prompt" and "response", it has '
        f"{', '.join(map(repr, values))}"
    )


class ChatTemplate:
    """Messages to tokens.

    Raises:
        ValueError: the tokenizer lacks one of the special tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.bos, self.eos = special(tokenizer, "bos", "eos")
        self.roles = dict(zip(ROLES, special(tokenizer, *ROLES), strict=True))

    def encode(self, messages: Sequence[Message], *, begin: bool = True) -> Conversation:
        """Whole messages; with `begin`, the token that begins a conversation in front."""
        parts = [np.array([self.bos] * begin, np.int32)]
        weights = [0.0] * begin
        for message in messages:
            content = self.tokenizer.encode(message.content)
            answer = message.role == "assistant"
            parts += [np.array([self.roles[message.role]], np.int32), content, np.array([self.eos] * answer, np.int32)]
            weights += [0.0] + [float(answer)] * (len(content) + answer)
        return Conversation(np.concatenate(parts), np.array(weights, np.float32))

    def prompt(self, messages: Sequence[Message]) -> np.ndarray:
        """(n,) int32: the messages and the token after which an answer begins."""
        return np.append(self.encode(messages).tokens, np.int32(self.roles["assistant"]))


def window_batch(windows: Sequence[Sequence[Conversation]], seqlen: int, pad: int) -> TokenBatch:
    """A row for every list of conversations, put one after the other and padded.

    Targets that do not count are 0, so that models need not be able to predict special tokens.
    """
    tokens = np.full((len(windows), seqlen + 1), pad, np.int32)
    weight = np.zeros((len(windows), seqlen + 1), np.float32)
    for row, conversations in enumerate(windows):
        begin = 0
        for conversation in conversations:
            end = begin + len(conversation)
            tokens[row, begin:end], weight[row, begin:end] = conversation.tokens, conversation.weight
            begin = end
    counted = np.ascontiguousarray(weight[:, 1:])
    targets = np.where(counted > 0, tokens[:, 1:], 0).astype(np.int32)
    return TokenBatch(np.ascontiguousarray(tokens[:, :-1]), targets, counted, fresh=True)


class ChatSource:
    """An endless iterator of batches over a stream of conversations.

    A conversation longer than a window of seqlen + 1 tokens keeps its beginning; one of which no answer is left then,
    or that never had one, is left out and counted in `left_out`. With `packing`, a window holds as many whole
    conversations as fit one after the other; without, one. What remains is padding of weight 0. Every batch is
    `fresh`.

    Args:
        rows: the dataset; its rows as for `conversation_of`.
        tokenizer: with all special tokens.
        batch: windows.
        seqlen: tokens of each.
        packing: several conversations in a window.

    Raises:
        ValueError: batch or seqlen below 1, or a special token is missing; while iterating, a malformed row, or no
            answer in the whole dataset.
    """

    def __init__(self, rows: RowStream, tokenizer: Tokenizer, batch: int, seqlen: int, *, packing: bool = True) -> None:
        check_shape("ChatSource", batch, seqlen)
        self.rows, self.batch, self.seqlen, self.packing = rows, batch, seqlen, packing
        self.template = ChatTemplate(tokenizer)
        (self._pad,) = special(tokenizer, "pad")
        self._stream = digest("chat", rows.fingerprint, tokenizer.fingerprint, batch, seqlen, packing)
        self.left_out: Counter[str] = Counter()
        self._next: tuple[State, Conversation] | None = None  # read, but did not fit

    @property
    def epoch(self) -> float:
        """Passes through the dataset completed, in reading."""
        return float(self.rows.epoch)

    def _read(self) -> tuple[State, Conversation]:
        """The next conversation that can be learned from, and the state before its row."""
        begin = self.rows.epoch
        while self.rows.epoch <= begin + 1:
            state = self.rows.state()
            whole = self.template.encode(conversation_of(next(self.rows)))
            cut = Conversation(whole.tokens[: self.seqlen + 1], whole.weight[: self.seqlen + 1])
            if cut.weight[1:].any():
                return state, cut
            self.left_out["answer cut off" if whole.weight.any() else "no answer"] += 1
        raise ValueError(
            f"[ChatSource] {self.rows.reader.name} holds no answer that begins within {self.seqlen} tokens; "
            "use a larger seqlen"
        )

    def _window(self) -> list[Conversation]:
        window: list[Conversation] = []
        room = self.seqlen + 1
        while True:
            state, conversation = self._next or self._read()
            self._next = None
            if window and (not self.packing or len(conversation) > room):
                self._next = state, conversation
                return window
            window.append(conversation)
            room -= len(conversation)
            if room <= 0 or not self.packing:
                return window

    def __iter__(self) -> Iterator[TokenBatch]:
        return self

    def __next__(self) -> TokenBatch:
        return window_batch([self._window() for _ in range(self.batch)], self.seqlen, self._pad)

    def state(self) -> State:
        """Where the source stands, for `restore`; JSON-able."""
        return {"rows": self._next[0] if self._next else self.rows.state(), "stream": self._stream}

    def restore(self, state: Any) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            ValueError: the state belongs to other data, another tokenizer or other arguments.
        """
        check_state("ChatSource", state, self._stream)
        self.rows.restore(state.get("rows"))
        self._next = None
