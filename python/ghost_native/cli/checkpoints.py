"""Loading, saving and facts, with errors that a person at a terminal can act on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ghost_native.cli import terminal
from ghost_native.cli.errors import EXIT_INTERRUPTED, CommandError
from ghost_native.cli.parser import Parser

if TYPE_CHECKING:
    from ghost_native.models import Ghost, Transformer
    from ghost_native.train.saved import Saved


def check_writable(path: Path) -> None:
    """Find out before the training, not after it."""
    folder = path.absolute().parent
    if path.is_dir():
        raise CommandError(f"cannot save to {path}: it is a folder; name a file")
    if not folder.is_dir():
        raise CommandError(f"cannot save to {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise CommandError(f"cannot save to {path}: no permission to write in {folder}")


def load(path: Path, tokenizer: str | None = None) -> Saved:
    """A model and its tokenizer, out of a file or folder; errors as of `ghost_native.train.saved.load_saved`."""
    from ghost_native.train.saved import load_saved

    return load_saved(path, tokenizer)


WHICH = "a .safetensors file, or the folder of a run, of a checkpoint or of an exported model"


def add_model(parser: Parser) -> None:
    """The arguments that name a model."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=WHICH)
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="SentencePiece model of a transformer of tokens (default: the one kept beside it)",
    )


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
