"""Synthetic facts and questions about them, made by code from a seed; nothing is ever asked twice the same way.

Training and evaluation never share a word: every word is dealt to one side by a hash of its letters, relation names
are two separate lists, and the `unseen` templates occur in no training batch. A share of the questions asks for keys
that are not stored, half of them *near misses* (one word or one letter of a stored key changed); their answer is
`unknown`.
"""

from __future__ import annotations

import re
import string
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import mlx.core as mx
import numpy as np

from ghost_native.nn.fact_store import NULL_ROW, NULL_VALUE, TERMINATOR, FactStore, PackedFacts

Split = Literal["train", "test"]
Templates = Literal["train", "seen", "unseen"]
Absent = Literal["mixed", "near", "new"]

NOT_ASKED = -1
_TEST_SHARE = 5  # one word in five is kept for evaluation

RELATIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "capital of", "author of", "color of", "mother of", "price of", "code of", "owner of", "king of", "age of",
        "home of", "boss of", "size of", "phone of", "job of", "pet of", "birthday of", "maker of", "weight of",
    ),
    "test": (
        "president of", "currency of", "nickname of", "password of", "brother of", "language of", "river of",
        "founder of",
    ),
}  # fmt: skip

SEEN = (
    "Q: {k}? A: {v}\n", "Q: what is {k}? A: {v}\n", "Q: {k}?\nA: {v}\n", "Question: {k}?\nAnswer: {v}\n",
    "{k} = {v}\n", "{k}: {v}\n", "The {k} is {v}\n", "User: {k}?\nBot: {v}\n", "What is the {k}? {v}\n", "{k} -> {v}\n",
    "Tell me the {k}: {v}\n", "Do you know {k}? Yes: {v}\n", "[{k}] {v}\n", "get({k}) => {v}\n",
    "Who or what is {k}? It is {v}\n", "I asked about {k} and heard {v}\n", "key={k} value={v}\n", "<q>{k}</q><a>{v}\n",
    "Human: name the {k}.\nAI: {v}\n", "{k} | {v}\n", "recall {k} - {v}\n", "# {k}\n{v}\n",
    "I want to know {k}. Answer: {v}\n", "Look up {k}; result: {v}\n", "> {k}\n< {v}\n", "what is the {k}?\n{v}\n",
)  # fmt: skip

UNSEEN = (
    "Please give me the {k}. Reply: {v}\n", "Query: {k}\nOutput: {v}\n", "Hello! Can you say what {k} is? Sure: {v}\n",
    "lookup[{k}] = {v}\n", "Problem: find {k}.\nSolution: {v}\n", '"{k}": {v}\n', "Me: {k}?\nYou: {v}\n",
    "Everyone knows the {k}, it is {v}\n", "In: {k}\nOut: {v}\n", "For the last time, {k}? A: {v}\n",
    "fact about {k} => {v}\n", "The answer to {k} is: {v}\n",
)  # fmt: skip

_OPENERS = (
    "Q:", "what is", "tell me", "please", "say", "the", "find", "so", "ask:", "hey", "now", "user>", "do you know",
    "in:", "query:", "give", "well,", "my", "who is", "1.", "-", "*", "okay", "look:", "name", ">>", "ex:", "that",
    "what's the",
)  # fmt: skip
_CONNECTORS = (
    ": ", " = ", "? A: ", " is ", " -> ", "? ", "\n", "? it is ", ". answer: ", " => ", "\nout: ", "? reply: ",
    ", yes: ", " - ", "] ", ") ", " equals ", ": it is ", "? ok: ", "\n> ", "?\nme: ", "\nans: ", ". result: ", "?\n",
)  # fmt: skip
_INTRODUCERS = (
    "Q:", "what is", "tell me", "say", "the", "find", "ask:", "user>", "do you know", "in:", "query:", "give", "my",
    "who is", "1.", "-", "*", "look:", "name", ">>", "ex:", "what's the", "about", "for", "to", "with", "what",
    "is", "and", "does", "on", "me:", "please:", "a",
)  # fmt: skip
_TRAILERS = ("then", "please", "is", "now", "again", "today", "exactly", "for me", "means", "really", "here", "was")
_CLOSERS = ("", "", "]", ")", '"', "?", ".", ">", "'", " is", "]]", ";")
_BREAKS = (" ", "\n", "? ", "?\n", ". ", ".\n", ", ", " (", "; ", "] ", '" ')
_ARROWS = (": ", " = ", " -> ", ": ", " is ", " => ", "=", ': "', " | ")
_QUOTES = ("", "", "", "", '"', "(", "[", "<")
_ONSETS = (
    "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "br", "ch", "cl", "dr",
    "fr", "gr", "kl", "pl", "pr", "sh", "sl", "st", "th", "tr",
)  # fmt: skip
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "ea", "oo", "ou")


def word_split(word: str) -> Split:
    """The side a word belongs to: a hash of its lower-case letters decides, on every machine the same."""
    return "test" if zlib.crc32(word.lower().encode()) % _TEST_SHARE == 0 else "train"


@cache
def english_words(split: Split) -> tuple[str, ...]:
    """Words of 3 to 12 letters of the running Python's own help topics, one side of the split."""
    from pydoc_data.topics import topics

    words = {w.lower() for text in topics.values() for w in re.findall(r"[A-Za-z]{3,12}", text)}
    return tuple(sorted(w for w in words if word_split(w) == split))


@cache
def template_words(split: Split) -> tuple[str, ...]:
    """Words of this split that the training templates are made of."""
    texts = (*SEEN, *_OPENERS, *_CONNECTORS, *_INTRODUCERS, *_TRAILERS)
    words = {w.lower() for text in texts for w in re.findall(r"[A-Za-z]{3,12}", text)}
    return tuple(sorted(w for w in words if word_split(w) == split))


@dataclass(frozen=True)
class Question:
    """One question inside a text: the answer is text[begin:end], its terminating newline counted."""

    begin: int
    end: int
    row: int  # of the store; NULL_ROW when the key is not stored


@dataclass
class FactBatch:
    """Texts about one store and all that training needs, NumPy arrays.

    - tokens (batch, seqlen + 1) int32: inputs are tokens[:, :-1], targets tokens[:, 1:]; zeros after the text's end
    - weight (batch, seqlen) float32: of each target in the text loss: 1 in answers, `text_weight` elsewhere, 0
      in padding
    - fact (batch, seqlen) int32: at the byte before an answer the row to choose, elsewhere `NOT_ASKED`
    - start (batch, seqlen) float32: 1 at the byte before an answer
    - mask (batch, seqlen) float32: 1 for real bytes
    - questions: per text, positions in tokens
    """

    tokens: np.ndarray
    weight: np.ndarray
    fact: np.ndarray
    start: np.ndarray
    mask: np.ndarray
    store: FactStore
    questions: list[list[Question]] = field(default_factory=list)

    def arrays(self) -> dict[str, mx.array]:
        """The five arrays for MLX."""
        names = ("tokens", "weight", "fact", "start", "mask")
        return {name: mx.array(getattr(self, name)) for name in names}

    def pack(self, num_facts: int, *, max_key: int = 32, max_value: int = 16) -> PackedFacts:
        """The store in a shape that all batches of up to `num_facts` facts share."""
        return self.store.pack(min_rows=num_facts + 1, min_key=max_key, min_value=max_value)


class FactGenerator:
    """Facts, questions and batches from one seed.

    Args:
        seed: everything follows from it.
        split: whose words and relations are used.
        key_length, value_length: shortest and longest, in bytes.
        structured: share of keys of the form "relation of entity", the hard ones: they differ in one word.
        case: share of questions that spell the key in another case.
        clutter: scales how often other words stand between questions.
    """

    def __init__(
        self,
        seed: int,
        split: Split = "train",
        *,
        key_length: tuple[int, int] = (2, 24),
        value_length: tuple[int, int] = (1, 14),
        structured: float = 0.5,
        case: float = 0.15,
        clutter: float = 1.0,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"[FactGenerator] split must be 'train' or 'test', got {split!r}")
        for name, (low, high) in {"key_length": key_length, "value_length": value_length}.items():
            if not 1 <= low <= high:
                raise ValueError(f"[FactGenerator] {name} must be 1 <= shortest <= longest, got {(low, high)}")
        self.rng = np.random.default_rng(seed)
        self.split: Split = split
        self.key_length, self.value_length = key_length, value_length
        self.structured, self.case, self.clutter = structured, case, clutter
        self._entities: list[str] = []

    def _pick(self, items: tuple[str, ...] | list[str]) -> str:
        return items[int(self.rng.integers(len(items)))]

    def _letters(self, length: int, alphabet: str = string.ascii_lowercase) -> str:
        return "".join(alphabet[i] for i in self.rng.integers(0, len(alphabet), length))

    def word(self) -> str:
        """A word of this split: English, invented syllables, or plain letters."""
        while True:
            kind = self.rng.random()
            if kind < 0.35:
                return self._pick(english_words(self.split))
            if kind < 0.7:
                word = "".join(self._pick(_ONSETS) + self._pick(_NUCLEI) for _ in range(self.rng.integers(1, 4)))
            else:
                word = self._letters(int(self.rng.integers(2, 10)))
            if word_split(word) == self.split:
                return word

    def _random_word(self, length: int) -> str:
        while True:
            word = self._letters(length)
            if word_split(word) == self.split:
                return word

    def _words(self, length: int) -> str:
        """Whole words, about `length` bytes and never more; cutting one could make a word of the other split."""
        text = ""
        while length - len(text) > 2:
            word = self.word()
            if len(text) + len(word) + bool(text) > length:
                break
            text += " " * bool(text) + word
        return text or self._random_word(length)

    def key(self) -> str:
        """One key; half of them (`structured`) are a relation and an entity out of a slowly changing pool."""
        low, high = self.key_length
        if self.rng.random() < self.structured:
            for _ in range(8):
                if not self._entities or self.rng.random() < 0.35:
                    self._entities = [*self._entities[-399:], self.word()]
                key = self._pick(RELATIONS[self.split]) + " " + self._pick(self._entities)
                if low <= len(key) <= high:
                    return key
        length = int(self.rng.integers(low, high + 1))
        if self.rng.random() < 0.08:
            # A stored word that questions are made of must not answer them all.
            key = self._pick(template_words(self.split))
            if low <= len(key) <= high:
                return key
        if self.rng.random() < 0.15:
            return self._letters(length, string.ascii_lowercase + string.digits)
        key = self._words(length)
        return key if len(key) >= low else self._random_word(low)

    def value(self) -> str:
        """One value: digits, mixed letters and digits, any printable bytes, or words."""
        low, high = self.value_length
        length, kind = int(self.rng.integers(low, high + 1)), self.rng.random()
        if kind < 0.2:
            return self._letters(length, string.digits)
        if kind < 0.4:
            return self._letters(length, string.ascii_letters + string.digits)
        if kind < 0.5:
            return self._letters(length, string.ascii_letters + string.digits + string.punctuation + " ").strip() or "-"
        text = self._words(length)
        return text[:1].upper() + text[1:] if kind < 0.75 else text

    def store(self, num_facts: int) -> FactStore:
        """A store of `num_facts` fresh facts."""
        store = FactStore(max_key=max(64, self.key_length[1]), max_value=max(63, self.value_length[1]))
        while len(store) < num_facts:
            key = self.key()
            if key not in store:
                store.store(key, self.value())
        return store

    def near_miss(self, store: FactStore, keys: list[str]) -> str:
        """An absent key: a stored one with a word or letter changed, or a stored word with another beside."""
        while True:
            key = self._pick(keys)
            words = key.split(" ")
            kind = self.rng.random()
            if len(words) == 1 and kind < 0.7:
                before = self.word() if self.rng.random() < 0.5 else self._pick(RELATIONS[self.split])
                other = f"{before} {key}" if self.rng.random() < 0.7 else f"{key} {self.word()}"
            elif len(words) > 1 and kind < 0.7:
                words[int(self.rng.integers(len(words)))] = self.word()
                other = " ".join(words)
            else:
                at = int(self.rng.integers(len(key)))
                other = key[:at] + self._letters(1) + key[at + 1 :]
            if other.strip() == other and len(other) <= store.max_key and other not in store:
                return other

    def absent(self, store: FactStore, keys: list[str], kind: Absent = "mixed") -> str:
        """A key that is not stored: a near miss, a new one, or either with equal odds."""
        if kind == "near" or (kind == "mixed" and self.rng.random() < 0.5):
            return self.near_miss(store, keys)
        while True:
            key = self.key()
            if key not in store:
                return key

    def template(self, kind: Templates) -> str:
        """A text with {k} and {v}; 'train' is a third fixed (`SEEN`), the rest put together at random."""
        if kind == "unseen":
            return self._pick(UNSEEN)
        if kind == "seen" or self.rng.random() < 0.35:
            return self._pick(SEEN)
        # The word before the key is one that introduces things: with any word there, "x y" could not be told from "y".
        count = int(self.rng.integers(0, 4))
        parts = [self._pick(_OPENERS) if self.rng.random() < 0.5 else self.word() for _ in range(count - 1)]
        parts += [self._pick(_INTRODUCERS)] * min(count, 1)
        opener = " ".join(parts) + " " if parts else ""
        if self.rng.random() < 0.3:
            opener = opener.capitalize()
        middle = "" if self.rng.random() < 0.8 else " " + self._pick(_TRAILERS)
        if self.rng.random() < 0.5:
            connector = self._pick(_CONNECTORS)
        else:
            words = " ".join(self.word() for _ in range(self.rng.integers(0, 3)))
            if self.rng.random() < 0.5:
                words = words.capitalize()
            if words:
                connector = self._pick(_BREAKS) + words + self._pick(_ARROWS)
            else:
                connector = self._pick(_CLOSERS) + self._pick(_ARROWS)
        return opener + self._pick(_QUOTES) + "{k}" + middle + connector + "{v}\n"

    def _spell(self, key: str) -> str:
        if self.rng.random() >= self.case:
            return key
        return (key.title(), key.upper(), key.capitalize())[int(self.rng.integers(3))]

    def ask(
        self, store: FactStore, keys: list[str], templates: Templates, absent: float, kind: Absent = "mixed"
    ) -> tuple[bytes, bytes, int]:
        """One question: prompt up to the answer, answer with its newline, row."""
        if self.rng.random() < absent:
            key, row, value = self.absent(store, keys, kind), NULL_ROW, NULL_VALUE
        else:
            key = self._pick(keys)
            row, value = store.row(key), store.value(key)
        before, after = self.template(templates).split("{v}")
        prompt = before.replace("{k}", self._spell(key)).encode()
        return prompt, value + after.encode(), row

    def text(
        self, store: FactStore, keys: list[str], length: int, templates: Templates, absent: float
    ) -> tuple[bytes, list[Question]]:
        """As many questions as fit into `length` bytes, with some clutter between them."""
        out = b"\n" if self.rng.random() < 0.5 else b""
        questions: list[Question] = []
        if self.rng.random() < 0.3 * self.clutter:
            out += self._words(int(self.rng.integers(4, 40))).encode()
            out += b". " if self.rng.random() < 0.5 else b"\n"
        while True:
            prompt, answer, row = self.ask(store, keys, templates, absent)
            if len(out) + len(prompt) + len(answer) > length:
                return out[:length], questions
            begin = len(out) + len(prompt)
            out += prompt + answer
            questions.append(Question(begin, len(out), row))
            if self.rng.random() < 0.15 * self.clutter:
                out += self._words(int(self.rng.integers(4, 30))).encode() + b"\n"

    def batch(
        self,
        batch: int,
        seqlen: int,
        num_facts: int,
        *,
        templates: Templates = "train",
        absent: float = 0.2,
        text_weight: float = 0.1,
    ) -> FactBatch:
        """`batch` texts of up to `seqlen` + 1 bytes about `num_facts` fresh facts."""
        store = self.store(num_facts)
        keys = [key.decode() for key in store.facts()]
        texts = [self.text(store, keys, seqlen + 1, templates, absent) for _ in range(batch)]
        return _assemble(texts, seqlen, store, text_weight)


def _assemble(
    texts: list[tuple[bytes, list[Question]]], seqlen: int, store: FactStore, text_weight: float
) -> FactBatch:
    batch = len(texts)
    made = FactBatch(
        tokens=np.zeros((batch, seqlen + 1), np.int32),
        weight=np.zeros((batch, seqlen), np.float32),
        fact=np.full((batch, seqlen), NOT_ASKED, np.int32),
        start=np.zeros((batch, seqlen), np.float32),
        mask=np.zeros((batch, seqlen), np.float32),
        store=store,
    )
    for i, (text, questions) in enumerate(texts):
        made.tokens[i, : len(text)] = list(text)
        made.weight[i, : max(0, len(text) - 1)] = text_weight
        made.mask[i, : max(0, len(text) - 1)] = 1
        for q in questions:
            made.fact[i, q.begin - 1] = q.row
            made.start[i, q.begin - 1] = 1
            made.weight[i, q.begin - 1 : q.end - 1] = 1
        made.questions.append(questions)
    return made


Predictor = Callable[[np.ndarray, FactStore], np.ndarray]


@dataclass(frozen=True)
class Recall:
    """How many of the answers were right in every byte, newline included."""

    right: int
    asked: int
    failures: tuple[tuple[str, str], ...]  # up to eight: prompt with the right answer, what was said

    @property
    def share(self) -> float:
        return self.right / max(1, self.asked)


def recall(
    predict: Predictor,
    num_facts: int,
    *,
    questions: int = 200,
    templates: Templates = "unseen",
    absent: float = 0.0,
    absent_kind: Absent = "mixed",
    split: Split = "test",
    seed: int = 77,
    batch: int = 25,
    seqlen: int = 112,
    structured: float = 0.5,
    key_length: tuple[int, int] = (2, 24),
    value_length: tuple[int, int] = (1, 14),
) -> Recall:
    """Exact recall of freshly stored facts, one question per text.

    Args:
        predict: (tokens (batch, seqlen) int32, store) -> predicted next bytes (batch, seqlen), or logits
            (batch, seqlen, 256). Answers are scored under the right earlier bytes; being right in every byte is then
            the same as greedy generation being right.
        num_facts: facts stored.
        questions: number of questions asked.
        absent: share of questions whose key is not stored; the right answer is then `unknown`.
    """
    maker = FactGenerator(
        seed, split, structured=structured, key_length=key_length, value_length=value_length, clutter=0.5
    )
    store = maker.store(num_facts)
    keys = [key.decode() for key in store.facts()]
    right = asked = 0
    failures: list[tuple[str, str]] = []
    while asked < questions:
        tokens = np.zeros((batch, seqlen), np.int32)
        spans: list[tuple[int, int]] = []
        for i in range(batch):
            while True:
                prompt, answer, _ = maker.ask(store, keys, templates, absent, absent_kind)
                text = (b"\n" if maker.rng.random() < 0.5 else b"") + prompt
                if len(text) + len(answer) <= seqlen + 1:
                    break
            spans.append((len(text), len(text) + len(answer)))
            full = text + answer
            tokens[i, : min(len(full), seqlen)] = list(full[:seqlen])
        said = np.asarray(predict(tokens, store))
        said = said if said.ndim == 2 else said.argmax(-1)
        for i, (begin, end) in enumerate(spans):
            target = np.append(tokens[i, begin : end - 1], TERMINATOR)
            asked += 1
            if (said[i, begin - 1 : end - 1] == target).all():
                right += 1
            elif len(failures) < 8:
                asked_text = bytes(tokens[i, : end - 1].tolist()).decode("utf-8", "replace")
                failures.append((asked_text, bytes(said[i, begin - 1 : end - 1].astype(np.uint8)).decode("latin-1")))
    return Recall(right, asked, tuple(failures))
