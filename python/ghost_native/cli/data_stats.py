"""`ghost-native data stats`: how much there is, how long, and what is there twice."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ghost_native.cli import terminal
from ghost_native.cli.data_input import Documents, Work, add_input, add_limit, per_token
from ghost_native.cli.errors import CommandError
from ghost_native.cli.parser import Arguments, Parser

DESCRIPTION = """\
Count documents, bytes and, with a tokenizer, tokens; show how long documents are and how many are there more than
once, byte for byte. Of a folder of shards, every piece is checked against its SHA-256 as well."""

EXAMPLES = """\
ghost-native data stats notes/
ghost-native data stats corpus.jsonl.gz --tokenizer corpus.model
ghost-native data stats chats.jsonl --stage sft --json
ghost-native data stats notes-shards
"""

_BAR = 40


def add_arguments(parser: Parser) -> None:
    add_input(parser)
    add_limit(parser)
    parser.add_argument("--tokenizer", metavar="NAME|FILE", help="count tokens too: bytes, or a SentencePiece model")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


@dataclass
class _Count:
    """What has been counted. lengths in bytes, or in tokens where these are counted."""

    unit: str
    num_bytes: int = 0
    num_tokens: int | None = None
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    duplicates: int = 0
    duplicate_length: int = 0
    _seen: set[bytes] = field(default_factory=set)

    def add(self, length: int, digest: bytes) -> None:
        self.lengths.append(length)
        if digest in self._seen:
            self.duplicates += 1
            self.duplicate_length += length
        self._seen.add(digest)


def run(args: Arguments) -> int:
    from ghost_native.data.sources import is_shards

    found = _count_shards(args) if is_shards(args.data) else _count_documents(args)
    if not found.lengths:
        raise CommandError("there are no documents in what was named")
    values = _values(found)
    if args.json:
        print(json.dumps(values))
    else:
        _print(found, values)
    return 0


def _count_documents(args: Arguments) -> _Count:
    from ghost_native.data import load_tokenizer

    tokenizer = load_tokenizer(args.tokenizer) if args.tokenizer else None
    found = _Count("token" if tokenizer else "byte", num_tokens=0 if tokenizer else None)
    with terminal.working("opening the data"):
        documents = Documents(args)
    length, digest = 0, hashlib.blake2b(digest_size=16)
    with Work("counting") as work:
        for text in documents:
            data = text.data
            found.num_bytes += len(data)
            digest.update(data)
            if tokenizer is not None and found.num_tokens is not None:
                count = len(tokenizer.encode(text.text))
                found.num_tokens += count
                length += count
            else:
                length += len(data)
            if not text.more:
                found.add(length, digest.digest())
                length, digest = 0, hashlib.blake2b(digest_size=16)
            if work.due():
                rate = terminal.rate(found.num_bytes / work.seconds)
                work.show(documents.share(), f"{terminal.plural(len(found.lengths), 'document')}, {rate}")
    return found


def _count_shards(args: Arguments) -> _Count:
    from ghost_native.data import Shards, load_tokenizer

    tokenizer = load_tokenizer(args.tokenizer) if args.tokenizer else None
    shards = Shards(Path(args.data[0]).expanduser(), tokenizer)
    shards.verify()
    manifest = shards.manifest
    found = _Count("token", manifest.num_bytes, manifest.num_tokens)
    with Work("counting") as work:
        for index, ids in enumerate(shards):
            if index == args.limit:
                break
            found.add(len(ids), hashlib.blake2b(ids.tobytes(), digest_size=16).digest())
            if work.due():
                work.show(index / len(shards), terminal.plural(index, "document"))
    return found


def _values(found: _Count) -> dict[str, Any]:
    lengths = np.frombuffer(found.lengths, np.uint64)
    return {
        "documents": len(lengths),
        "bytes": found.num_bytes,
        "tokens": found.num_tokens,
        "unit": found.unit,
        "shortest": int(lengths.min()),
        "median": float(np.median(lengths)),
        "mean": float(lengths.mean()),
        "longest": int(lengths.max()),
        "duplicates": found.duplicates,
        "duplicate_share": found.duplicate_length / max(1, int(lengths.sum())),
        "histogram": [{"below": below, "documents": count} for below, count in _histogram(lengths)],
    }


def _histogram(lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """(limit, documents below it and not below the one before), limits doubling."""
    exponents = np.frexp(lengths.astype(np.float64))[1]
    for exponent in range(int(exponents.min()), int(exponents.max()) + 1):
        yield 1 << exponent, int((exponents == exponent).sum())


def _print(found: _Count, values: dict[str, Any]) -> None:
    rows = [("documents", f"{values['documents']:,}"), ("text", f"{terminal.size(found.num_bytes)}")]
    if found.num_tokens is not None:
        rows.append(("tokens", f"{found.num_tokens:,}, {per_token(found.num_bytes, found.num_tokens)}"))
    rows.append(
        ("lengths", f"{values['shortest']:,} to {values['longest']:,} {found.unit}s, median {values['median']:,.0f}, "
                    f"mean {values['mean']:,.0f}")
    )  # fmt: skip
    rows.append(("duplicates", f"{found.duplicates:,}, {values['duplicate_share']:.1%} of all {found.unit}s"))
    terminal.rows(rows)
    terminal.heading(f"Documents by length in {found.unit}s")
    most = max(bucket["documents"] for bucket in values["histogram"])
    width = len(f"{values['histogram'][-1]['below']:,}")
    digits = len(f"{most:,}")
    for bucket in values["histogram"]:
        bar = "█" * -(-_BAR * bucket["documents"] // most)
        terminal.out().print(f"  below {bucket['below']:>{width},}  {bucket['documents']:>{digits},}  {bar}".rstrip())
