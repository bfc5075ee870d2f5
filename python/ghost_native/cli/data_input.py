"""What the `data` commands share: options that name data, the documents behind them, and progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.progress import TimeRemainingColumn

from ghost_native.cli import terminal
from ghost_native.cli.bar import Barred
from ghost_native.cli.parser import Arguments, Parser, number

if TYPE_CHECKING:
    from ghost_native.data.rows import Cursor, Row

STAGES = ("pretrain", "sft", "preference")
_LINE_SECONDS = 10.0  # between lines of progress where there is no terminal


def add_input(parser: Parser, *, nargs: str = "+", stage: bool = True) -> None:
    """Options that name data and say how it is read."""
    parser.add_argument("data", nargs=nargs, metavar="DATA", help="files, folders, or a dataset on the HuggingFace hub")
    group = parser.add_argument_group("reading")
    group.add_argument("--text-field", default="text", metavar="NAME", help="field with the text (default text)")
    if stage:
        group.add_argument(
            "--stage",
            choices=STAGES,
            default="pretrain",
            help="what rows hold: a text; sft: messages, or prompt and response; preference: prompt, chosen and "
            "rejected (default pretrain)",
        )
    group.add_argument("--config", metavar="NAME", help="configuration of a hub dataset, such as en")
    group.add_argument("--split", default="train", metavar="NAME", help="split of a dataset (default train)")
    group.add_argument("--no-streaming", action="store_true", help="download a hub dataset first")
    group.add_argument("--cache-dir", type=Path, metavar="DIR", help="where downloads are kept")


def add_tokenizer(parser: Parser) -> None:
    parser.add_argument(
        "--tokenizer",
        default="bytes",
        metavar="NAME|FILE",
        help="bytes, ghost-bytes (the end is a byte), or a SentencePiece model (default bytes)",
    )


def add_limit(parser: Parser) -> None:
    parser.add_argument("--limit", type=number(int, 1), metavar="N", help="stop after this many documents")


class Text(NamedTuple):
    """A document, or a piece of one that the next text continues."""

    text: str | bytes
    more: bool

    @property
    def data(self) -> bytes:
        return self.text.encode("utf-8", "replace") if isinstance(self.text, str) else self.text


class Documents:
    """One pass over everything that was named, in its own order; `share` says how far it is."""

    def __init__(self, args: Arguments) -> None:
        from ghost_native.data import open_reader

        self.stage, self.text_field = args.stage if "stage" in args else "pretrain", args.text_field
        self.limit = args.limit
        self.readers = []
        for name in args.data:  # one by one, so that text and JSON lines may be named together
            reader, skipped = open_reader(
                name, config=args.config, split=args.split, streaming=not args.no_streaming, cache_dir=args.cache_dir
            )
            self.readers.append(reader)
            for skip in skipped:
                terminal.remark(f"skipped {skip.name}: {skip.reason}")
        self._done = 0
        self._cursor: Cursor | None = None

    def share(self) -> float | None:
        """Of the data, or of the limit if that is nearer."""
        here = self._cursor.share() if self._cursor is not None else 0.0
        return None if here is None else (self._done + here) / len(self.readers)

    def __iter__(self) -> Iterator[Text]:
        count = 0
        for done, reader in enumerate(self.readers):
            self._done, self._cursor = done, reader.open(0)
            for row in self._cursor:
                text = self._text(row)
                if text:
                    yield Text(text, row.more)
                    count += not row.more
                if count == self.limit:
                    return
        self._done, self._cursor = len(self.readers), None

    def _text(self, row: Row) -> str | bytes:
        from ghost_native.data.chat import conversation_of
        from ghost_native.data.packing import text_of
        from ghost_native.data.preference import pair_of

        if self.stage == "pretrain":
            return text_of(row, self.text_field, "data")
        if self.stage == "sft":
            return "\n".join(message.content for message in conversation_of(row))
        pair = pair_of(row)
        return "\n".join([*(message.content for message in pair.prompt), pair.chosen, pair.rejected])


class Work(Barred):
    """A progress bar on a terminal; elsewhere a line every ten seconds.

    `with Work("counting") as work: work.show(share, "12 documents")`
    """

    def __init__(self, what: str) -> None:
        self.what, self.begin = what, time.perf_counter()
        self._next = self.begin + _LINE_SECONDS
        self._shown = 0.0
        super().__init__(terminal.err(), what, TimeRemainingColumn(), transient=True)

    @property
    def seconds(self) -> float:
        return max(1e-9, time.perf_counter() - self.begin)

    def due(self) -> bool:
        """Whether to work out what to show; a few times a second."""
        now = time.perf_counter()
        if now - self._shown < (0.2 if self._bar is not None else 1.0):
            return False
        self._shown = now
        return True

    def show(self, share: float | None, numbers: str) -> None:
        if self._bar is not None:
            total = None if share is None else 1.0
            self._bar.update(self._task, total=total, completed=share or 0.0, numbers=numbers)
        elif time.perf_counter() >= self._next:
            self._next = time.perf_counter() + _LINE_SECONDS
            terminal.remark(f"{self.what}: {'' if share is None else f'{share:.0%}, '}{numbers}")


def per_token(num_bytes: float, num_tokens: float) -> str:
    """3.81 bytes per token."""
    return f"{num_bytes / num_tokens:.2f} bytes per token" if num_tokens else "no tokens"
