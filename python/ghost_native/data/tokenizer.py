"""Text to token ids and back: raw bytes, or a SentencePiece model. Both know the special tokens that stages need."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ghost_native.data.extras import need

SPECIALS = ("bos", "eos", "pad", "system", "user", "assistant")
END_OF_TEXT = 3  # the control character ETX, which text does not contain


class Tokenizer(Protocol):
    """What every tokenizer offers.

    Attributes:
        kind: "bytes", "ghost-bytes" or "sentencepiece".
        vocab_size: ids are 0 to vocab_size - 1; what a model has to be able to read.
        num_outputs: ids of text and its end are 0 to num_outputs - 1; what a model has to be able to predict.
        specials: ids of the special tokens it has, by name out of `SPECIALS`.
        fingerprint: equal for tokenizers that give the same ids.
    """

    kind: str
    vocab_size: int
    num_outputs: int
    specials: dict[str, int]
    fingerprint: str

    def encode(self, text: str | bytes) -> np.ndarray:
        """(n,) int32. Special tokens are never read from text; bytes are taken as UTF-8."""
        ...

    def encode_batch(self, texts: Sequence[str | bytes], num_threads: int = 1) -> list[np.ndarray]:
        """`encode` of each, with up to `num_threads` threads."""
        ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for; special tokens stand for none."""
        ...


def special(tokenizer: Tokenizer, *names: str) -> list[int]:
    """Ids of special tokens.

    Raises:
        ValueError: the tokenizer lacks one.
    """
    for name in names:
        if name not in tokenizer.specials:
            raise ValueError(
                f"[special] this {tokenizer.kind} tokenizer has no {name!r} token, it has "
                f"{', '.join(tokenizer.specials) or 'none'}; train one with `ghost-native data tokenizer`"
            )
    return [tokenizer.specials[name] for name in names]


def decode(tokenizer: Tokenizer, ids: Iterable[int], *, specials: bool = False) -> str:
    """Text of ids, bytes that are no UTF-8 as U+FFFD; with `specials`, special tokens as <|name|>.

    Raises:
        ValueError: an id outside the vocabulary.
    """
    names = {value: f"<|{name}|>".encode() for name, value in tokenizer.specials.items()}
    parts: list[bytes] = []
    run: list[int] = []
    for value in ids:
        if value in names:
            parts += [tokenizer.decode_bytes(run), names[value] if specials else b""]
            run = []
        else:
            run.append(int(value))
    return b"".join([*parts, tokenizer.decode_bytes(run)]).decode("utf-8", "replace")


def _check_ids(name: str, ids: list[int], vocab_size: int) -> None:
    for value in ids:
        if not 0 <= value < vocab_size:
            raise ValueError(f"[{name}] there is no token {value}, ids are 0 to {vocab_size - 1}")


class ByteTokenizer:
    """The 256 byte values as they are, and special tokens from 256 on.

    Args:
        byte_end: the end of a text is the byte 3 (ETX) in place of a token of its own, and left out of texts that hold
            it. For models such as Ghost that predict bytes alone: what is left above 255 is only ever fed to them.
    """

    def __init__(self, *, byte_end: bool = False) -> None:
        self.kind = "ghost-bytes" if byte_end else "bytes"
        self.specials = {name: 256 + i for i, name in enumerate(SPECIALS)}
        if byte_end:
            self.specials["eos"] = END_OF_TEXT
        self.vocab_size = 256 + len(SPECIALS)
        self.num_outputs = 256 if byte_end else self.vocab_size
        self.fingerprint = self.kind

    def encode(self, text: str | bytes) -> np.ndarray:
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        if self.num_outputs == 256:
            data = data.replace(bytes([END_OF_TEXT]), b"")
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str | bytes], num_threads: int = 1) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        values = [int(value) for value in ids]
        _check_ids("ByteTokenizer.decode_bytes", values, self.vocab_size)
        end = self.specials["eos"]
        return bytes(value for value in values if value < 256 and value != end)


class SentencePieceTokenizer:
    """A SentencePiece model (Kudo and Richardson 2018).

    Models made by `train` hold all of `SPECIALS`, fall back to bytes and keep every space, so that decoding gives the
    text back, with one exception: U+2581, with which SentencePiece marks spaces, comes back as a space. Of foreign
    models the specials that are there are found by their usual names. Bytes that are no UTF-8 become U+FFFD.

    Args:
        model: the bytes of a model file.
        name: for messages.

    Raises:
        ImportError: sentencepiece is not installed.
        ValueError: the bytes are no SentencePiece model.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, name: str = "the model") -> None:
        library = need("sentencepiece", "tokenizer", "SentencePieceTokenizer")
        self.model = model
        try:
            if not model:
                raise RuntimeError("it is empty")
            self._processor: Any = library.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"[SentencePieceTokenizer] {name} is not a SentencePiece model; train one with "
                "`ghost-native data tokenizer`"
            ) from error
        self.vocab_size = self.num_outputs = int(self._processor.vocab_size())
        self.fingerprint = "sentencepiece-" + hashlib.sha256(model).hexdigest()
        self.specials = self._find_specials()
        self._controls = {i for i in range(self.vocab_size) if self._processor.is_control(i)}

    def _find_specials(self) -> dict[str, int]:
        processor = self._processor
        found = {name: int(getattr(processor, f"{name}_id")()) for name in ("bos", "eos", "pad")}
        for name in SPECIALS[3:]:
            piece = int(processor.piece_to_id(f"<|{name}|>"))
            found[name] = piece if processor.is_control(piece) else -1
        return {name: value for name, value in found.items() if value >= 0}

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.array(self._processor.encode(_text(text)), np.int32)

    def encode_batch(self, texts: Sequence[str | bytes], num_threads: int = 1) -> list[np.ndarray]:
        encoded = self._processor.encode([_text(text) for text in texts], num_threads=max(1, num_threads))
        return [np.array(ids, np.int32) for ids in encoded]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        values = [int(value) for value in ids]
        _check_ids("SentencePieceTokenizer.decode_bytes", values, self.vocab_size)
        # Piece by piece, because the library's decode() would turn bytes cut within a character into U+FFFD.
        parts: list[bytes] = []
        for value in values:
            if value in self._controls:
                continue
            if self._processor.is_byte(value):
                parts.append(bytes((int(self._processor.id_to_piece(value)[3:-1], 16),)))
            elif self._processor.is_unknown(value):
                parts.append("\ufffd".encode())
            else:
                parts.append(self._processor.id_to_piece(value).replace("\u2581", " ").encode())
        return b"".join(parts)

    @classmethod
    def train(
        cls,
        texts: Iterable[str | bytes],
        vocab_size: int,
        *,
        model_type: str = "unigram",
        character_coverage: float = 0.9995,
        max_sentences: int = 1_000_000,
        seed: int = 0,
        num_threads: int = 4,
    ) -> SentencePieceTokenizer:
        """Learn a vocabulary from texts. The same texts and arguments give the same model, byte for byte.

        Args:
            texts: documents; they are cut into lines, and long lines into pieces.
            vocab_size: tokens in all: 256 bytes, the specials and what is learned.
            model_type: "unigram" (Kudo 2018) or "bpe".
            character_coverage: share of the text whose characters get a token; the rest is spelled in bytes.
            max_sentences: with more lines than that, a random choice of them is learned from.
            seed: of that choice.
            num_threads: a fixed number, because SentencePiece's sums depend on it.

        Raises:
            ImportError: sentencepiece is not installed.
            ValueError: an argument out of range, no text, or a vocabulary too small or too large for the text.
        """
        library = need("sentencepiece", "tokenizer", "SentencePieceTokenizer.train")
        name = "SentencePieceTokenizer.train"
        if model_type not in ("unigram", "bpe"):
            raise ValueError(f"[{name}] model_type is {model_type!r}, allowed are 'unigram' and 'bpe'")
        if not 0 < character_coverage <= 1:
            raise ValueError(f"[{name}] character_coverage is {character_coverage}, allowed is more than 0 up to 1")
        for what, value in (("vocab_size", vocab_size), ("max_sentences", max_sentences), ("num_threads", num_threads)):
            if value < 1:
                raise ValueError(f"[{name}] {what} is {value}, at least 1 is needed")
        sample = _sample(_lines(texts), max_sentences, seed)
        if not sample:
            raise ValueError(f"[{name}] there is no text to learn from")
        writer = io.BytesIO()
        try:
            library.SentencePieceTrainer.train(
                sentence_iterator=iter(sample), model_writer=writer, vocab_size=vocab_size, model_type=model_type,
                byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
                remove_extra_whitespaces=False, character_coverage=character_coverage,
                max_sentence_length=2 * _LINE_BYTES, allow_whitespace_only_pieces=True,
                num_threads=num_threads, minloglevel=2, unk_id=0, bos_id=1, eos_id=2, pad_id=3,
                control_symbols=[f"<|{special}|>" for special in SPECIALS[3:]], user_defined_symbols=["\n", "\t"],
            )  # fmt: skip
        except RuntimeError as error:
            raise ValueError(f"[{name}] {_reason(str(error), vocab_size)}") from error
        return cls(writer.getvalue())


_LINE_BYTES = 4000


def _lines(texts: Iterable[str | bytes]) -> Iterator[str]:
    for text in texts:
        for line in _text(text).split("\n"):
            for begin in range(0, len(line), _LINE_BYTES // 4):
                piece = line[begin : begin + _LINE_BYTES // 4].replace("\0", "")  # null is a mark of SentencePiece's
                if piece.strip():
                    yield piece


def _sample(lines: Iterator[str], count: int, seed: int) -> list[str]:
    """All lines, or `count` of them in which each is as likely as any other (reservoir sampling)."""
    sample = list(itertools.islice(lines, count))
    chance = random.Random(seed)
    for number, line in enumerate(lines, count + 1):
        place = chance.randrange(number)
        if place < count:
            sample[place] = line
    return sample


def _text(text: str | bytes) -> str:
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text  # JSON may hold half a surrogate pair
    return data.decode("utf-8", "replace")


def _reason(message: str, vocab_size: int) -> str:
    most = re.search(r"value <= (\d+)", message)
    if most:
        return f"vocab_size is {vocab_size}, at most {most[1]} are possible with this text; give more text"
    least = re.search(r"required_chars\. \d+ vs (\d+)", message)
    if least:
        return f"vocab_size is {vocab_size}, at least {least[1]} are needed for the bytes and characters of this text"
    return f"SentencePiece failed: {message}"


def load_tokenizer(name: str | Path) -> Tokenizer:
    """A tokenizer by name or from a file.

    Args:
        name: "bytes", "ghost-bytes" (see `ByteTokenizer`, `byte_end`), or a SentencePiece model file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a SentencePiece model.
        ImportError: sentencepiece is not installed.
    """
    if name in ("bytes", "ghost-bytes"):
        return ByteTokenizer(byte_end=name == "ghost-bytes")
    path = Path(name)
    if path.is_dir():
        raise ValueError(f"[load_tokenizer] {path} is a folder, a SentencePiece model file is needed")
    if not path.is_file():
        raise FileNotFoundError(
            f"[load_tokenizer] no such tokenizer: {path}; allowed are 'bytes', 'ghost-bytes' and SentencePiece model "
            "files"
        )
    return SentencePieceTokenizer(path.read_bytes(), str(path))
