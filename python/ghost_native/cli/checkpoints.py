"""Loading, saving and facts, with errors that a person at a terminal can act on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ghost_native.cli import terminal
from ghost_native.cli.errors import EXIT_INTERRUPTED, CommandError

if TYPE_CHECKING:
    from ghost_native.models import Ghost, Transformer

BYTES = 256  # values


def check_writable(path: Path) -> None:
    """Find out before the training, not after it."""
    folder = path.absolute().parent
    if path.is_dir():
        raise CommandError(f"cannot save to {path}: it is a folder; name a file")
    if not folder.is_dir():
        raise CommandError(f"cannot save to {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise CommandError(f"cannot save to {path}: no permission to write in {folder}")


def load(path: Path) -> Ghost:
    """A model. Errors as of `Ghost.load`, a folder in place of a file told apart."""
    from ghost_native.models import Ghost

    if path.is_dir():
        raise CommandError(f"{path} is a folder; name the .safetensors file of a checkpoint")
    return Ghost.load(path)


def load_byte_model(path: Path) -> Ghost | Transformer:
    """A Ghost, or a transformer of bytes; a file, or a folder as exported."""
    from ghost_native.models.export import load_model
    from ghost_native.models.transformer import Transformer

    if path.is_dir() and not (path / "config.json").exists():
        raise CommandError(f"{path} is a folder; name the .safetensors file of a checkpoint")
    model = load_model(path)
    if isinstance(model, Transformer) and model.config.vocab_size != BYTES:
        raise CommandError(
            f"{path} is a transformer of {model.config.vocab_size} tokens, which its tokenizer has to read and write; "
            f"this command takes models of {BYTES} byte values"
        )
    return model


def check_fact(model: Ghost, key: str, value: str) -> None:
    """ValueError now for a fact that the model could not store later."""
    model.store_fact(key, value)
    model.forget(key)


def store_facts(model: Ghost | Transformer, facts: Iterable[tuple[str, str]]) -> None:
    from ghost_native.models import Ghost

    for key, value in facts:
        if not isinstance(model, Ghost):
            raise CommandError("a transformer has no memory for facts; leave out --fact")
        model.store_fact(key, value)


def save_interrupted(model: Ghost, path: Path, steps: int) -> int:
    """Save what Ctrl-C left, unpacked so that it can be trained on; the exit code."""
    model.save(path)
    terminal.err().print(
        f"interrupted after {steps} steps; saved to {path}. To train on: ghost-native train PATH... --init {path}"
    )
    return EXIT_INTERRUPTED
