"""The fact generator: deterministic, nothing shared between training and evaluation, targets where they belong."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ghost_native.data.facts import (
    NOT_ASKED,
    RELATIONS,
    SEEN,
    UNSEEN,
    FactGenerator,
    Split,
    english_words,
    recall,
    word_split,
)
from ghost_native.nn.fact_store import NULL_ROW, FactStore

SPLITS: tuple[Split, Split] = ("train", "test")


def test_the_same_seed_gives_the_same_batch() -> None:
    a, b = (FactGenerator(5).batch(4, 96, 30) for _ in range(2))
    c = FactGenerator(6).batch(4, 96, 30)
    for name in ("tokens", "weight", "fact", "start", "mask"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert a.store.facts() == b.store.facts()
    assert not np.array_equal(a.tokens, c.tokens)


def test_batches_of_one_generator_differ() -> None:
    maker = FactGenerator(0)
    first, second = maker.batch(4, 96, 30), maker.batch(4, 96, 30)
    shared = set(first.store.facts()) & set(second.store.facts())
    assert len(shared) < 5
    assert not np.array_equal(first.tokens, second.tokens)


def test_words_are_on_one_side_only() -> None:
    train, test = (set(english_words(split)) for split in SPLITS)
    assert len(train) > 1000
    assert len(test) > 200
    assert not train & test
    makers = {split: FactGenerator(1, split) for split in SPLITS}
    made = {split: {makers[split].word() for _ in range(3000)} for split in SPLITS}
    assert not made["train"] & made["test"]
    assert all(word_split(w) == split for split in SPLITS for w in made[split])
    assert not set(RELATIONS["train"]) & set(RELATIONS["test"])
    assert not set(SEEN) & set(UNSEEN)


def test_stores_share_no_content_word() -> None:
    """Not even a piece of a word: everything in keys, relations aside, is a whole word of its own split."""
    makers = {split: FactGenerator(2, split) for split in SPLITS}
    for split in SPLITS:
        for key in makers[split].store(400).facts():
            text = key.decode()
            for relation in RELATIONS[split]:
                text = text.removeprefix(relation)
            words = text.split()
            if re.fullmatch("[a-z0-9]*[0-9][a-z0-9]*", text):
                continue  # a random code, not made of words
            assert all(word_split(w) == split for w in words) or len(words) == 1, key


def test_lengths_are_kept() -> None:
    maker = FactGenerator(3, key_length=(5, 12), value_length=(2, 6))
    for key, value in maker.store(300).facts().items():
        assert 5 <= len(key) <= 12
        assert 1 <= len(value) <= 6
    for message in ("key_length", "value_length"):
        with pytest.raises(ValueError, match=rf"\[FactGenerator\] {message} must be 1 <= shortest <= longest"):
            FactGenerator(0, **{message: (4, 3)})
    with pytest.raises(ValueError, match=r"\[FactGenerator\] split must be 'train' or 'test', got 'dev'"):
        FactGenerator(0, "dev")  # type: ignore[arg-type]


def test_targets_point_at_the_answers() -> None:
    made = FactGenerator(4).batch(16, 128, 40, absent=0.3)
    values = {made.store.row(key): value for key, value in made.store.facts().items()}
    kinds = set()
    for i, questions in enumerate(made.questions):
        text = bytes(made.tokens[i].tolist())
        assert questions
        starts = set()
        for q in questions:
            want = b"unknown" if q.row == NULL_ROW else values[q.row]
            assert text[q.begin : q.end] == want + b"\n"
            assert made.fact[i, q.begin - 1] == q.row
            assert (made.weight[i, q.begin - 1 : q.end - 1] == 1).all()
            starts.add(q.begin - 1)
            kinds.add(q.row == NULL_ROW)
        assert set(np.flatnonzero(made.start[i])) == starts
        assert set(np.flatnonzero(made.fact[i] != NOT_ASKED)) == starts
        used = len(text.rstrip(b"\0"))
        assert made.mask[i].sum() == used - 1
        assert (made.weight[i, used - 1 :] == 0).all()
    assert kinds == {True, False}


def test_absent_keys_are_absent_and_near_misses_are_near() -> None:
    maker = FactGenerator(5, "test")
    store = maker.store(100)
    keys = [key.decode() for key in store.facts()]
    for _ in range(200):
        assert maker.absent(store, keys, "mixed") not in store
        near = maker.near_miss(store, keys)
        assert near not in store

        def close(a: str, b: str) -> bool:
            letters = len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1
            words, others = set(a.split()), set(b.split())
            return letters or len(words & others) >= len(words) - 1

        assert any(close(key, near) for key in keys)


def test_pack_shares_one_shape() -> None:
    maker = FactGenerator(6)
    shapes = {
        tuple(sorted((name, tuple(value.shape)) for name, value in maker.batch(2, 64, n).pack(48).items()))  # type: ignore[attr-defined]
        for n in (6, 16, 48)
    }
    assert len(shapes) == 1


def test_unseen_templates_never_train() -> None:
    maker = FactGenerator(7)
    made = {maker.template("train") for _ in range(3000)}
    assert not made & set(UNSEEN)
    assert len(made) > 500
    assert {maker.template("unseen") for _ in range(500)} == set(UNSEEN)


def oracle(tokens: np.ndarray, store: FactStore) -> np.ndarray:
    """Knows the text: it predicts every next byte, and the newline that ends it."""
    said = np.concatenate([tokens[:, 1:], np.zeros((len(tokens), 1), tokens.dtype)], axis=1)
    return np.where(said == 0, 10, said)


@pytest.mark.parametrize("absent", [0.0, 1.0])
def test_recall_counts_whole_answers(absent: float) -> None:
    report = recall(oracle, 20, questions=50, absent=absent)
    assert (report.right, report.asked, report.share, report.failures) == (50, 50, 1.0, ())
    logits = recall(lambda x, s: np.eye(256)[oracle(x, s)], 20, questions=25, absent=absent)
    assert logits.share == 1.0

    def one_byte_wrong(tokens: np.ndarray, store: FactStore) -> np.ndarray:
        said = oracle(tokens, store)
        ends = (tokens != 0).sum(axis=1)
        said[0, ends[0] - 2] ^= 1
        return said

    spoiled = recall(one_byte_wrong, 20, questions=50, absent=absent)
    assert spoiled.right == 48
    assert len(spoiled.failures) == 2
