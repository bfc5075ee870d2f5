"""argparse with one-line errors that name the nearest option, and the value types that options share."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import NoReturn

from ghost_native.cli.errors import UsageError

Arguments = argparse.Namespace
WIDTH = 100  # of help


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


class Parser(argparse.ArgumentParser):
    """The parser of one verb. Errors are `UsageError`s; the examples stand below the options."""

    def __init__(self, verb: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"ghost-native {verb}",
            description=textwrap.fill(description, WIDTH),
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=WIDTH),
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; {self.prog} --help shows all options")

    def parse(self, arguments: list[str]) -> Arguments:
        parsed, unknown = self.parse_known_args(arguments)
        if unknown and not any(word.startswith("-") for word in unknown):
            # An optional word behind an option, such as a prompt behind --chat.
            parsed, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            name = unknown[0].split("=")[0]
            hint = nearest(name, options) if name.startswith("-") else ""
            self.error(f"unknown argument {unknown[0]!r}{hint}")
        return parsed


def number(
    kind: type[int] | type[float], low: float, high: float = math.inf, *, above: bool = False
) -> Callable[[str], int | float]:
    """An argparse type: a number from `low` (or above it) to `high`."""
    allowed = f"more than {low:g}" if above else f"at least {low:g}"
    allowed += "" if high == math.inf else f" and at most {high:g}"
    what = "a whole number" if kind is int else "a number"

    def convert(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"given {text!r}, allowed is {what}, {allowed}") from None
        if not (low <= value <= high) or (above and value == low) or math.isinf(value):
            raise argparse.ArgumentTypeError(f"given {text}, allowed is {what}, {allowed}")
        return value

    return convert


def fact(text: str) -> tuple[str, str]:
    """An argparse type: KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not (equals and key.strip() and value):
        raise argparse.ArgumentTypeError(f"given {text!r}, allowed is KEY=VALUE, such as 'capital of Zembla=Onhava'")
    return key.strip(), value


_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}


def escaped_bytes(text: str) -> bytes:
    r"""An argparse type: text as UTF-8, with \n, \t, \r, \0, \\ and \xNN understood."""

    def replace(match: re.Match[bytes]) -> bytes:
        name = match[1].decode()
        return bytes((int(name[1:], 16),)) if name.startswith("x") else _ESCAPES[name]

    data = re.sub(rb"\\(x[0-9a-fA-F]{2}|[ntr0\\])", replace, text.encode("utf-8", "surrogateescape"))
    if not data:
        raise argparse.ArgumentTypeError("given nothing, allowed is at least one byte")
    return data
