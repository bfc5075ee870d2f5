"""Entry point: finds the verb, parses its options, runs it, and turns every error into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from ghost_native.cli import blas, errors
from ghost_native.cli.parser import Arguments, Parser, nearest

VERBS = {
    "quickstart": "train a small model on this Python's own text in four minutes and see what it can do",
    "train": "train a Ghost or a transformer, from a YAML file or options; on text, answers or preferences",
    "data": "look at data as training sees it; tokenizers, shards, statistics",
    "generate": "continue a text, streaming to the terminal",
    "eval": "bits per byte on files, beside gzip and xz",
    "inspect": "show boundaries, depth and surprise of every byte of a text",
    "bench": "run the benchmarks of a checkout, beside rivals and what the machine can do",
    "verify": "check that a configuration can be trained here",
    "estimate": "parameters, memory, disk and time of a configuration",
    "compare": "train a Ghost and a transformer on the same bytes for the same time",
    "plot": "draw loss, bits per byte, throughput and memory of training runs",
    "info": "versions, instruction set, BLAS and device; what is in a checkpoint",
}


class Verb(Protocol):
    """What a module of a verb offers."""

    DESCRIPTION: str
    EXAMPLES: str

    def add_arguments(self, parser: Parser) -> None: ...

    def run(self, args: Arguments) -> int: ...


def top_help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return f"""usage: ghost-native COMMAND [options]

Ghost is a byte-level language model with 2-bit weights that trains on a laptop's CPU and reads facts you give it.

commands:
{verbs}

start here:
  ghost-native quickstart
  ghost-native generate ghost-quickstart.safetensors "def "

more:
  ghost-native COMMAND --help    options and examples of a command
  ghost-native --version

environment:
  GHOST_NATIVE_THREADS=N         threads of the CPU kernels
  GHOST_NATIVE_BLAS=none|PATH    do not load OpenBLAS, or load this library (Linux)
  GHOST_NATIVE_DEBUG=1           show tracebacks
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; argv without the program's name, `sys.argv` when None. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as exit:  # argparse's way to end --help
        return exit.code if isinstance(exit.code, int) else errors.EXIT_FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return errors.EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.EXIT_BROKEN_PIPE
    except Exception as error:
        return errors.report(error)


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        print(top_help(), end="", file=sys.stderr)
        return errors.EXIT_USAGE
    first, *rest = arguments
    if first in ("-h", "--help", "help"):
        if rest and rest[0] in VERBS:
            return _dispatch([rest[0], "--help"])
        print(top_help(), end="")
        return 0
    if first == "--version":
        from ghost_native import __version__

        print(f"ghost-native {__version__}")
        return 0
    if first not in VERBS:
        raise errors.UsageError(f"unknown command {first!r}{nearest(first, VERBS)}; commands are {', '.join(VERBS)}")
    verb = cast(Verb, importlib.import_module(f"ghost_native.cli.{first}"))
    parser = Parser(first, verb.DESCRIPTION, verb.EXAMPLES)
    verb.add_arguments(parser)
    args = parser.parse(rest)
    blas.prepare()
    from ghost_native._native import tune_allocator

    tune_allocator()
    return verb.run(args)
