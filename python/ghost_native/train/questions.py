"""Questions with one right answer each, asked of a model that was tuned to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ghost_native.data.chat import ChatTemplate, Message, conversation_of
from ghost_native.data.selection import Selection
from ghost_native.data.sources import open_reader
from ghost_native.data.tokenizer import Tokenizer

_FAILURES = 8  # that are kept to be shown
_ROOM = 16  # tokens that an answer may be longer than the right one


class Question(NamedTuple):
    """messages: up to the answer; answer: the right one."""

    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True)
class Answers:
    """How many questions were answered right in every byte, the end included.

    Attributes:
        right, asked: questions.
        failures: some of the wrong ones: question, right answer, what was said.
    """

    right: int
    asked: int
    failures: tuple[tuple[str, str, str], ...] = ()

    @property
    def share(self) -> float:
        return self.right / max(1, self.asked)


def read_questions(path: Any, fields: Mapping[str, str] | None = None) -> list[Question]:
    """The conversations of a file or dataset, each asked for its last answer.

    Args:
        path: as for `open_reader`.
        fields: names of fields by the names they have there.

    Raises:
        ValueError: a conversation does not end in an answer, or there are none.
        FileNotFoundError, ImportError: as of `open_reader`.
    """
    reader: Any = open_reader(path)[0]
    if fields:
        reader = Selection(reader, fields, 0.0)
    questions = []
    for row in reader.open(0):
        *before, last = conversation_of(row)
        if last.role != "assistant" or not before:
            raise ValueError(f"[read_questions] {row.where} does not end in an answer to something, given {last.role}.")
        questions.append(Question(tuple(before), last.content))
    if not questions:
        raise ValueError(f"[read_questions] {path} holds no questions, at least one is needed.")
    return questions


def ask(
    model: Any, tokenizer: Tokenizer, questions: Sequence[Question], progress: Callable[[int], None] = lambda done: None
) -> Answers:
    """The most likely answer to every question, compared with the right one.

    Args:
        model: a Ghost or a transformer.
        tokenizer: of the model, with the special tokens of conversations.
        questions: asked one by one.
        progress: called with the number of questions answered after each.
    """
    template = ChatTemplate(tokenizer)
    right = 0
    failures: list[tuple[str, str, str]] = []
    for done, question in enumerate(questions, 1):
        longest = len(tokenizer.encode(question.answer)) + _ROOM
        said = answer(model, tokenizer, template.prompt(question.messages), longest)
        if said == question.answer.encode():
            right += 1
        elif len(failures) < _FAILURES:
            text = "(no end)" if said is None else said.decode("utf-8", "replace")
            failures.append((question.messages[-1].content, question.answer, text))
        progress(done)
    return Answers(right, len(questions), tuple(failures))


def answer(model: Any, tokenizer: Tokenizer, prompt: np.ndarray, longest: int) -> bytes | None:
    """What the model most likely says after `prompt` (n,) int32; None without an end within `longest` tokens."""
    end = tokenizer.specials["eos"]
    logits, state = model.step(mx.array(prompt)[None], model.init_state(1))
    said: list[int] = []
    while len(said) <= longest:
        token = int(np.array(logits[0, -1].astype(mx.float32))[: tokenizer.vocab_size].argmax())
        if token == end:
            return tokenizer.decode_bytes(said)
        said.append(token)
        logits, state = model.step(mx.array([[token]]), state)
    return None
