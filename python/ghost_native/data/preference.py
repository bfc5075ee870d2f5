"""Pairs of answers to one prompt, a better and a worse one, for preference tuning (DPO, Rafailov et al. 2023)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ghost_native.data.batch import PreferenceBatch, State, check_shape, check_state
from ghost_native.data.chat import ChatTemplate, Conversation, Message, messages_of, window_batch
from ghost_native.data.rows import Row, RowStream, digest
from ghost_native.data.tokenizer import Tokenizer, special


class Pair(NamedTuple):
    """The messages before the answers, and the two answers."""

    prompt: list[Message]
    chosen: str
    rejected: str


def pair_of(row: Row) -> Pair:
    """The pair of a row with the fields "chosen" and "rejected", and "prompt" unless they bring it.

    The answers are texts, or messages of which the last is the answer and those before it, if any, are the prompt; the
    prompt is a text or messages.

    Raises:
        ValueError: a field is missing or malformed, the last message is no answer, or the two answer different prompts.
    """
    values, where, name = row.values, row.where, "pair_of"
    for field in ("chosen", "rejected"):
        if field not in values:
            raise ValueError(
                f"[{name}] {where} has no field {field!r}, it has {', '.join(map(repr, values))}; "
                '"prompt", "chosen" and "rejected" are needed'
            )
    chosen, before_chosen = _answer(values["chosen"], "chosen", where)
    rejected, before_rejected = _answer(values["rejected"], "rejected", where)
    if before_chosen != before_rejected:
        raise ValueError(f"[{name}] {where}: chosen and rejected answer different prompts")
    prompt = values.get("prompt")
    if before_chosen:
        return Pair(before_chosen, chosen, rejected)
    if isinstance(prompt, str):
        return Pair([Message("user", prompt)], chosen, rejected)
    if prompt is None:
        raise ValueError(f"[{name}] {where} has no prompt")
    return Pair(messages_of(prompt, f"{where}, prompt", name), chosen, rejected)


def _answer(value: Any, field: str, where: str) -> tuple[str, list[Message]]:
    """An answer, and the messages before it."""
    if isinstance(value, str):
        return value, []
    messages = messages_of(value, f"{where}, {field}", "pair_of")
    if messages[-1].role != "assistant":
        raise ValueError(f"[pair_of] {where}: the last message of {field} is of role {messages[-1].role!r}")
    return messages[-1].content, messages[:-1]


class PreferenceSource:
    """An endless iterator of `PreferenceBatch`es over a stream of pairs.

    Both rows of a pair hold the same prompt tokens, then their answer and its end token; only the latter weigh. Where
    prompt and answer do not fit into seqlen + 1 tokens, answers keep their beginning, at least half the window's worth
    of it, and then the prompt keeps its end (after the token that begins every conversation). Pairs whose answers are
    equal, or equal as far as they are kept, are left out and counted in `left_out`.

    Args:
        rows: the dataset; its rows as for `pair_of`.
        tokenizer: with all special tokens.
        batch: pairs.
        seqlen: tokens of each side.

    Raises:
        ValueError: batch below 1, seqlen below 7, or a special token is missing; while iterating, a malformed row, or
            no pair to learn from in the whole dataset.
    """

    def __init__(self, rows: RowStream, tokenizer: Tokenizer, batch: int, seqlen: int) -> None:
        check_shape("PreferenceSource", batch, seqlen)
        if seqlen < 7:
            raise ValueError(f"[PreferenceSource] seqlen is {seqlen}, at least 7 is needed")
        self.rows, self.batch, self.seqlen = rows, batch, seqlen
        self.template = ChatTemplate(tokenizer)
        (self._pad,) = special(tokenizer, "pad")
        self._stream = digest("preference", rows.fingerprint, tokenizer.fingerprint, batch, seqlen)
        self.left_out: Counter[str] = Counter()

    @property
    def epoch(self) -> float:
        """Passes through the dataset completed, in reading."""
        return float(self.rows.epoch)

    def _fit(self, pair: Pair) -> tuple[Conversation, Conversation] | None:
        """Both sides, cut to fit; None where they are the same."""
        window = self.seqlen + 1
        prompt = self.template.prompt(pair.prompt)
        room = max(window - len(prompt), window // 2)
        sides = []
        for text in (pair.chosen, pair.rejected):
            answer = self.template.encode([Message("assistant", text)], begin=False).tokens[1:]
            sides.append(answer[:room])
        if np.array_equal(sides[0], sides[1]):
            return None
        keep = window - max(map(len, sides))
        if len(prompt) > keep:
            prompt = np.concatenate([prompt[:1], prompt[len(prompt) - (keep - 1) :]])
        found = []
        for answer in sides:
            weight = np.concatenate([np.zeros(len(prompt), np.float32), np.ones(len(answer), np.float32)])
            found.append(Conversation(np.concatenate([prompt, answer]), weight))
        return found[0], found[1]

    def _read(self) -> tuple[Conversation, Conversation]:
        begin = self.rows.epoch
        while self.rows.epoch <= begin + 1:
            pair = pair_of(next(self.rows))
            found = self._fit(pair)
            if found is not None:
                return found
            same = pair.chosen == pair.rejected
            self.left_out["equal answers" if same else "answers equal as far as they are kept"] += 1
        raise ValueError(f"[PreferenceSource] {self.rows.reader.name} holds no pair of different answers")

    def __iter__(self) -> Iterator[PreferenceBatch]:
        return self

    def __next__(self) -> PreferenceBatch:
        pairs = [self._read() for _ in range(self.batch)]
        chosen, rejected = (window_batch([[pair[k]] for pair in pairs], self.seqlen, self._pad) for k in (0, 1))
        return PreferenceBatch(chosen, rejected)

    def state(self) -> State:
        """Where the source stands, for `restore`; JSON-able."""
        return {"rows": self.rows.state(), "stream": self._stream}

    def restore(self, state: Any) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            ValueError: the state belongs to other data, another tokenizer or other arguments.
        """
        check_state("PreferenceSource", state, self._stream)
        self.rows.restore(state.get("rows"))
