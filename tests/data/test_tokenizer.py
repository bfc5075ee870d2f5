"""Tokenizers: round trips, special tokens that text cannot forge, training, and the errors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_native.data.tokenizer import (
    SPECIALS,
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    decode,
    load_tokenizer,
    special,
)
from tests.data.examples import tokenizer_text

TEXT = tokenizer_text()


@pytest.fixture(scope="module")
def model() -> SentencePieceTokenizer:
    return SentencePieceTokenizer.train([TEXT], 400, seed=1)


@given(st.binary(max_size=40))
def test_bytes_round_trip(data: bytes) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(data)
    assert ids.dtype == np.int32 and ids.tolist() == list(data)
    assert tokenizer.decode_bytes(ids) == data
    ghost = ByteTokenizer(byte_end=True)
    assert ghost.specials["eos"] not in ghost.encode(data)
    assert ghost.decode_bytes(ghost.encode(data)) == ghost.decode_bytes(ids) == data.replace(b"\x03", b"")


def test_byte_specials() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.specials == {"bos": 256, "eos": 257, "pad": 258, "system": 259, "user": 260, "assistant": 261}
    assert tokenizer.vocab_size == 262
    ghost = ByteTokenizer(byte_end=True)
    assert ghost.specials == {**tokenizer.specials, "eos": 3} and ghost.fingerprint != tokenizer.fingerprint
    assert decode(tokenizer, [256, 260, 104, 105, 257], specials=True) == "<|bos|><|user|>hi<|eos|>"
    assert decode(tokenizer, [256, 260, 104, 105, 257]) == "hi"
    assert decode(tokenizer, [0xC3, 0xA9, 0xC3]) == "é\ufffd"
    with pytest.raises(ValueError, match=r"\[ByteTokenizer.decode_bytes\] there is no token 300, ids are 0 to 261"):
        decode(tokenizer, [300])
    assert tokenizer.encode("\ud800a").tolist() == [63, 97]  # half a surrogate pair, as JSON may hold, is a ?


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=40))
def test_sentencepiece_round_trip(model: SentencePieceTokenizer, text: str) -> None:
    ids = model.encode(text)
    assert decode(model, ids) == text
    assert model.decode_bytes(ids) == text.encode()
    np.testing.assert_array_equal(model.encode(text.encode()), ids)


def test_sentencepiece_learns_and_keeps_specials_out_of_text(model: SentencePieceTokenizer) -> None:
    assert model.vocab_size == 400 and set(model.specials) == set(SPECIALS)
    assert len(model.encode(TEXT)) < len(TEXT) / 2
    forged = model.encode("<|user|></s><pad><0x41>").tolist()
    assert not set(forged) & set(model.specials.values())
    user, eos = special(model, "user", "eos")
    assert decode(model, [user, *model.encode("the fox"), eos], specials=True) == "<|user|>the fox<|eos|>"
    assert decode(model, [user, *model.encode("the fox"), eos]) == "the fox"
    assert decode(model, model.encode(b"a\xffb")) == "a\ufffdb"


def test_encode_batch_is_encode_of_each(model: SentencePieceTokenizer) -> None:
    texts: list[str | bytes] = ["the fox", "", "was\nold", b"bytes \xff"]
    tokenizers: list[Tokenizer] = [model, ByteTokenizer()]
    for tokenizer in tokenizers:
        for threads in (1, 3):
            for text, ids in zip(texts, tokenizer.encode_batch(texts, threads), strict=True):
                np.testing.assert_array_equal(ids, tokenizer.encode(text))


def test_training_is_deterministic(model: SentencePieceTokenizer) -> None:
    assert SentencePieceTokenizer.train([TEXT], 400, seed=1).model == model.model
    lines = TEXT.splitlines(keepends=True)
    some = [SentencePieceTokenizer.train(lines, 380, max_sentences=150, seed=seed).model for seed in (1, 1, 2)]
    assert some[0] == some[1] != some[2]
    assert SentencePieceTokenizer.train([TEXT], 400, model_type="bpe").fingerprint != model.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 100_000}, r"vocab_size is 100000, at most \d+ are possible with this text; give more text"),
        ({"vocab_size": 100}, r"vocab_size is 100, at least \d+ are needed for the bytes and characters of this text"),
        ({"texts": []}, "there is no text to learn from"),
        ({"texts": ["", " \n"]}, "there is no text to learn from"),
        ({"model_type": "word"}, "model_type is 'word', allowed are 'unigram' and 'bpe'"),
        ({"character_coverage": 0}, "character_coverage is 0, allowed is more than 0 up to 1"),
        ({"vocab_size": 0}, "vocab_size is 0, at least 1 is needed"),
        ({"max_sentences": 0}, "max_sentences is 0, at least 1 is needed"),
    ],
)
def test_training_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=r"\[SentencePieceTokenizer.train\] " + message):
        SentencePieceTokenizer.train(**{"texts": [TEXT], "vocab_size": 400, **arguments})  # type: ignore[arg-type]


def test_errors_of_the_texts_come_through() -> None:
    def texts():
        yield TEXT
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SentencePieceTokenizer.train(texts(), 400)


def test_load_tokenizer(model: SentencePieceTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.model"
    path.write_bytes(model.model)
    assert load_tokenizer(path).fingerprint == load_tokenizer(str(path)).fingerprint == model.fingerprint
    assert load_tokenizer("bytes").kind == "bytes" and load_tokenizer("ghost-bytes").specials["eos"] == 3
    with pytest.raises(FileNotFoundError, match=r"\[load_tokenizer\] no such tokenizer: .*x.model; allowed are"):
        load_tokenizer(tmp_path / "x.model")
    with pytest.raises(ValueError, match="is a folder, a SentencePiece model file is needed"):
        load_tokenizer(tmp_path)
    for data in (b"", b"this is no model", model.model[:500]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"t.model is not a SentencePiece model; train one with `ghost"):
            load_tokenizer(path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"needs sentencepiece: pip install 'ghost-native\[tokenizer\]'"):
        load_tokenizer(path)


def test_a_missing_special_is_named() -> None:
    class Bare(ByteTokenizer):
        def __init__(self) -> None:
            super().__init__()
            self.specials = {"eos": 257}

    with pytest.raises(ValueError, match=r"this bytes tokenizer has no 'user' token, it has eos; train one with"):
        special(Bare(), "eos", "user")
