"""`ghost-native data shard`: tokenize once, read many times."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ghost_native.cli import terminal
from ghost_native.cli.data_input import Documents, Text, Work, add_input, add_limit, add_tokenizer, per_token
from ghost_native.cli.errors import CommandError
from ghost_native.cli.parser import Arguments, Parser, number

if TYPE_CHECKING:
    from ghost_native.data import ShardWriter

DESCRIPTION = """\
Tokenize documents into a folder of memory-mapped files that training reads at any place without loading them. The
folder appears when everything is on disk; an interruption or a full disk leaves nothing behind. A manifest in it says
which tokenizer made it, and holds the SHA-256 of every piece, so that damage is noticed when it is read."""

EXAMPLES = """\
ghost-native data shard notes/ --out notes-shards
ghost-native data shard corpus/*.jsonl.gz --tokenizer corpus.model --out corpus-shards --dedup
ghost-native data shard HuggingFaceFW/fineweb --config sample-10BT --tokenizer web.model --limit 1000000 --out web
"""

_ROWS, _BYTES = 64, 1 << 20  # encoded at once


def add_arguments(parser: Parser) -> None:
    add_input(parser, stage=False)
    add_tokenizer(parser)
    add_limit(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--dedup", action="store_true", help="leave out documents that were there before")
    parser.add_argument("--shard-tokens", type=number(int, 1), default=1 << 27, metavar="N",
                        help="tokens of a file, at least (default 134217728)")  # fmt: skip
    parser.add_argument("--num-workers", type=number(int, 1), default=2, metavar="N",
                        help="threads that encode (default 2); the result is the same")  # fmt: skip


def run(args: Arguments) -> int:
    from ghost_native.data import Shards, ShardWriter, load_tokenizer

    if args.out.exists():
        raise CommandError(f"{args.out} exists; remove it or choose another name")
    tokenizer = load_tokenizer(args.tokenizer)
    with terminal.working("opening the data"):
        documents = Documents(args)
    texts: Iterator[Text] = iter(documents)
    unique = _Unique(texts) if args.dedup else None
    with (
        Work("sharding") as work,
        ShardWriter(args.out, tokenizer, shard_tokens=args.shard_tokens) as writer,
    ):
        for chunk in _chunks(iter(unique) if unique else texts):
            encoded = tokenizer.encode_batch([text.text for text in chunk], args.num_workers)
            for text, ids in zip(chunk, encoded, strict=True):
                writer.add(ids, num_bytes=len(text.data), more=text.more)
            if work.due():
                work.show(documents.share(), _numbers(writer, work.seconds))
    done = Shards(args.out, tokenizer)
    manifest = done.manifest
    size = sum(info.size for info in (*manifest.tokens, *manifest.documents))
    terminal.rows(
        [
            ("documents", f"{manifest.num_documents:,}"),
            ("text", terminal.size(manifest.num_bytes)),
            ("tokens", f"{manifest.num_tokens:,}, ends included; {per_token(manifest.num_bytes, manifest.num_tokens)}"),
            *([("left out", terminal.plural(unique.left_out, "duplicate"))] if unique else []),
            ("time", f"{terminal.duration(work.seconds)}, {terminal.rate(manifest.num_bytes / work.seconds)}"),
            ("saved", f"{args.out}, {terminal.size(size)} in {terminal.plural(len(manifest.tokens), 'file')} of "
                      f"{manifest.dtype}"),
        ]
    )  # fmt: skip
    return 0


def _numbers(writer: ShardWriter, seconds: float) -> str:
    return (
        f"{terminal.plural(writer.num_documents, 'document')}, {writer.num_tokens / 1e6:.2f} M tokens, "
        f"{terminal.rate(writer.num_bytes / seconds)}"
    )


def _chunks(texts: Iterator[Text]) -> Iterator[list[Text]]:
    chunk: list[Text] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text.text)
        if len(chunk) >= _ROWS or size >= _BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Unique:
    """Documents not met before. A document in pieces is held until its last one is known."""

    def __init__(self, texts: Iterator[Text]) -> None:
        self._texts = texts
        self.left_out = 0

    def __iter__(self) -> Iterator[Text]:
        seen: set[bytes] = set()
        pieces: list[Text] = []
        digest = hashlib.blake2b(digest_size=16)
        for text in self._texts:
            pieces.append(text)
            digest.update(text.data)
            if text.more:
                continue
            if digest.digest() in seen:
                self.left_out += 1
            else:
                seen.add(digest.digest())
                yield from pieces
            pieces, digest = [], hashlib.blake2b(digest_size=16)
