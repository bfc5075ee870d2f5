"""`ghost-native data`: look at data as training sees it, and prepare it."""

from __future__ import annotations

import argparse
import importlib

from ghost_native.cli.errors import UsageError
from ghost_native.cli.parser import Arguments, Parser, nearest

DESCRIPTION = """\
Look at data as training would see it, and prepare it: train a tokenizer, tokenize text once and for all. Data are
files and folders of text or JSON lines (.jsonl, .ndjson; also .gz and .zst), .parquet, .arrow, .csv and .json files,
or the name of a dataset on the HuggingFace hub. Every command has its own --help."""

EXAMPLES = """\
ghost-native data stats notes/
ghost-native data tokenizer notes/ --vocab-size 4000 --out notes.model
ghost-native data shard notes/ --tokenizer notes.model --out notes-shards
ghost-native data stream notes-shards --tokenizer notes.model --seqlen 128
ghost-native data stream allenai/c4 --config en --samples 2
"""

COMMANDS = {
    "stream": "print samples of what training would see",
    "shard": "tokenize documents into memory-mapped files",
    "tokenizer": "train a SentencePiece model, or show what one does",
    "stats": "documents, bytes, tokens, lengths and duplicates",
}


def add_arguments(parser: Parser) -> None:
    width = max(map(len, COMMANDS))
    summary = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser.description = f"{parser.description}\n\ncommands:\n{summary}"
    parser.add_argument("command", metavar="COMMAND", help=f"{', '.join(COMMANDS)}")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its own arguments")


def run(args: Arguments) -> int:
    if args.command not in COMMANDS:
        hint = nearest(args.command, COMMANDS)
        raise UsageError(f"unknown data command {args.command!r}{hint}; commands are {', '.join(COMMANDS)}")
    command = importlib.import_module(f"ghost_native.cli.data_{args.command}")
    parser = Parser(f"data {args.command}", command.DESCRIPTION, command.EXAMPLES)
    command.add_arguments(parser)
    code: int = command.run(parser.parse(args.rest))
    return code
