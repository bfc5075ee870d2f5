"""What the command line tells people when something goes wrong: one line, and an exit code."""

from __future__ import annotations

import os
import re
import sys
import traceback

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

_TAG = re.compile(r"^\[[\w.]+\] ")


class CommandError(Exception):
    """Ends the command with one line: what is wrong, what was given, what is allowed or how to fix it."""

    exit_code = EXIT_FAILURE


class UsageError(CommandError):
    """The command line itself is wrong."""

    exit_code = EXIT_USAGE


def describe(error: BaseException) -> str:
    """One line for a person: the tag of library messages removed, system errors with their file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    text = _TAG.sub("", " ".join(str(error).split()))
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller --batch, --seqlen or model"
    if isinstance(error, (CommandError, ValueError, OSError, ImportError)) and text:
        return text
    return f"unexpected {type(error).__name__}: {text}; GHOST_NATIVE_DEBUG=1 shows where"


def report(error: BaseException) -> int:
    """Print the line (and with GHOST_NATIVE_DEBUG=1 the traceback) to stderr; return the exit code."""
    if os.environ.get("GHOST_NATIVE_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    print(f"error: {describe(error)}", file=sys.stderr)
    return error.exit_code if isinstance(error, CommandError) else EXIT_FAILURE
