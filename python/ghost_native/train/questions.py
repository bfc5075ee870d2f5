"""Questions with one right answer each, asked of a model that was tuned to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ghost_native.data.chat import ChatTemplate, Message, conversation_of
from ghost_native.data.selection import Selection
from ghost_native.data.sources import open_reader
from ghost_native.data.tokenizer import Tokenizer
from ghost_native.train.continuation import continuation

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
    """The most likely answer to every question, compared with the right one as the tokenizer says it.

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
        wanted = tokenizer.encode(question.answer).tolist()
        said = answer(model, tokenizer, template.prompt(question.messages), len(wanted) + _ROOM)
        if said == tokenizer.decode_bytes(wanted):  # some tokenizers put a space in front
            right += 1
        elif len(failures) < _FAILURES:
            text = "(no end)" if said is None else said.decode("utf-8", "replace")
            failures.append((question.messages[-1].content, question.answer, text))
        progress(done)
    return Answers(right, len(questions), tuple(failures))


def answer(model: Any, tokenizer: Tokenizer, prompt: np.ndarray, longest: int) -> bytes | None:
    """What the model most likely says after `prompt` (n,) int32; None without an end within `longest` tokens."""
    said: list[int] = []
    for token in continuation(model, prompt, lambda x: int(x.argmax()), tokenizer.vocab_size, longest + 1):
        if token == tokenizer.specials["eos"]:
            return tokenizer.decode_bytes(said)
        said.append(token)
    return None
