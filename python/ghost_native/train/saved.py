"""Models as runs leave them: which file of a folder is the model, and the tokenizer kept beside it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ghost_native.data.chat import ROLES
from ghost_native.data.tokenizer import (
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    special,
)
from ghost_native.models.atomic import atomic_file
from ghost_native.models.export import CONFIG, TOKENIZER, load_model
from ghost_native.models.ghost import Ghost
from ghost_native.models.transformer import Transformer
from ghost_native.train.checkpoint import MODEL_FILE, CheckpointFolder

BYTES = 256  # values


class Saved(NamedTuple):
    """A model, and what it reads; None for the plain byte values."""

    model: Ghost | Transformer
    tokenizer: Tokenizer | None

    @property
    def encoder(self) -> Tokenizer | None:
        """The tokenizer where it makes other tokens of a text than its bytes."""
        return None if self.tokenizer is None or self.tokenizer.kind != "sentencepiece" else self.tokenizer

    @property
    def chat(self) -> Tokenizer:
        """The tokenizer with the special tokens by which the model was told who speaks.

        Raises:
            ValueError: the model has none.
        """
        tokenizer: Tokenizer
        if isinstance(self.model, Ghost):
            tokens, tokenizer = BYTES + self.model.config.num_specials, ByteTokenizer(byte_end=True)
        else:
            tokens, tokenizer = self.model.config.vocab_size, self.tokenizer or ByteTokenizer()
        if tokens < tokenizer.vocab_size:
            raise ValueError(
                f"[Saved.chat] the model has no tokens that tell who speaks, given {tokens} tokens, allowed: at least "
                f"{tokenizer.vocab_size}, as in models of the stages sft and dpo."
            )
        special(tokenizer, "bos", "eos", *ROLES)
        return tokenizer


def load_saved(path: str | Path, tokenizer: str | Path | None = None) -> Saved:
    """The model at a path and its tokenizer.

    Args:
        path: as of `model_file`.
        tokenizer: a SentencePiece model, or "bytes"; None for the one kept beside the model.

    Raises:
        FileNotFoundError: there is no model, or no such tokenizer.
        ValueError: as of `load_model` and `load_tokenizer`; the tokenizer does not fit the model, or there is none.
    """
    path = Path(path)
    model = load_model(model_file(path))
    if isinstance(model, Ghost):
        if tokenizer not in (None, "bytes"):
            raise ValueError(f"[load_saved] a Ghost reads bytes, given the tokenizer {tokenizer}, allowed: none.")
        return Saved(model, None)
    vocab = model.config.vocab_size
    of_bytes = BYTES <= vocab <= ByteTokenizer().vocab_size  # fewer tokens than a SentencePiece model has
    name: str | Path | None = tokenizer or ("bytes" if of_bytes else tokenizer_file(path))
    if name is None:
        raise ValueError(
            f"[load_saved] {path} is a transformer of {vocab} tokens without the tokenizer that reads and writes them, "
            f"given no {TOKENIZER} beside it, allowed: one there or named, or 'bytes' for what was trained on bytes."
        )
    if name == "bytes":
        if vocab < BYTES:
            raise ValueError(f"[load_saved] {path} cannot read bytes, given {vocab} tokens, allowed: at least {BYTES}.")
        return Saved(model, None if vocab == BYTES else ByteTokenizer(byte_end=vocab < ByteTokenizer().vocab_size))
    found = load_tokenizer(name)
    if found.vocab_size > vocab:
        raise ValueError(
            f"[load_saved] {name} is not the tokenizer of {path}, given {found.vocab_size} tokens, allowed: at most "
            f"the {vocab} of the model."
        )
    return Saved(model, found)


def model_file(path: str | Path) -> Path:
    """A file of a model, a folder as exported, or the model in the folder of a checkpoint or a run.

    Of a run that is the finished model, else the newest checkpoint.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    path = Path(path)
    if not path.is_dir() or (path / CONFIG).exists():
        return path
    if (path / MODEL_FILE).exists():
        return path / MODEL_FILE
    folder = CheckpointFolder(path)
    steps = folder.steps()
    if not steps:
        raise FileNotFoundError(
            f"[model_file] {path} is a folder without a model, allowed: a .safetensors file, the folder of a run or "
            f"checkpoint, or one with {CONFIG} and {MODEL_FILE}."
        )
    return folder.path(steps[-1]) / MODEL_FILE


def tokenizer_file(path: str | Path) -> Path | None:
    """The SentencePiece model kept beside a saved model, of a checkpoint that of its run; None where there is none."""
    path = Path(path).absolute()
    folder = path if path.is_dir() else path.parent
    places = [] if path.is_dir() else [beside(path)]
    if path.is_dir() or path.name == MODEL_FILE:
        places.append(folder / TOKENIZER)
        if folder.name.startswith("step-"):
            places.append(folder.parent / TOKENIZER)
    return next((place for place in places if place.is_file()), None)


def beside(path: Path) -> Path:
    """Where the tokenizer of a model in a file of its own is kept."""
    return path.with_name(f"{path.stem}.{TOKENIZER}")


def keep_tokenizer(tokenizer: Tokenizer, path: Path, *, replaces: bool) -> None:
    """Keep the SentencePiece model at path, so that the model beside it stays readable; bytes need nothing kept.

    Args:
        tokenizer: of the model.
        path: where to.
        replaces: a file there is of a model that this one replaces, and goes with it.
    """
    if isinstance(tokenizer, SentencePieceTokenizer):
        if not path.exists() or path.read_bytes() != tokenizer.model:
            with atomic_file(path) as temporary:
                temporary.write_bytes(tokenizer.model)
    elif replaces:
        path.unlink(missing_ok=True)
