"""`ghost-native data tokenizer`: train a SentencePiece model, or show what one does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ghost_native.cli import checkpoints, terminal
from ghost_native.cli.data_input import Documents, Text, Work, add_input, add_limit, per_token
from ghost_native.cli.errors import CommandError, UsageError
from ghost_native.cli.parser import Arguments, Parser, number

if TYPE_CHECKING:
    from ghost_native.data import SentencePieceTokenizer, Tokenizer

DESCRIPTION = """\
Train a SentencePiece tokenizer on documents: every byte can be spelled, every space is kept, and the tokens of chats
are there. Then, or with --model of one that exists, show its vocabulary, its fertility (how many bytes a token takes
on average; more is better) and how it cuts a line. The same documents and options give the same file."""

EXAMPLES = """\
ghost-native data tokenizer notes/ --vocab-size 4000 --out notes.model
ghost-native data tokenizer chats.jsonl --stage sft --vocab-size 8000 --type bpe --out chats.model
ghost-native data tokenizer --model notes.model other-notes/
ghost-native data tokenizer --model notes.model
"""

_SAMPLE_BYTES = 4 << 20  # of text for the fertility
_LINE = 100  # characters of the line that is shown cut


def add_arguments(parser: Parser) -> None:
    add_input(parser, nargs="*")
    add_limit(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to save the model")
    parser.add_argument("--model", metavar="FILE", help="show this one instead of training")
    parser.add_argument("--vocab-size", type=number(int, 1), default=8000, metavar="N",
                        help="tokens, bytes and specials included (default 8000)")  # fmt: skip
    parser.add_argument("--type", choices=("unigram", "bpe"), default="unigram", help="(default unigram)")
    parser.add_argument("--coverage", type=number(float, 0, 1, above=True), default=0.9995, metavar="SHARE",
                        help="of the text whose characters get tokens (default 0.9995)")  # fmt: skip
    parser.add_argument("--max-sentences", type=number(int, 1), default=1_000_000, metavar="N",
                        help="learn from a random choice of lines if there are more (default 1000000)")  # fmt: skip
    parser.add_argument("--seed", type=number(int, 0), default=0, metavar="N", help="of that choice (default 0)")


def run(args: Arguments) -> int:
    from ghost_native.data import load_tokenizer

    if (args.out is None) == (args.model is None):
        raise UsageError("give --out FILE to train a tokenizer, or --model FILE to show one")
    if args.model is not None:
        tokenizer = load_tokenizer(args.model)
    else:
        if not args.data:
            raise UsageError("name the files to learn from")
        checkpoints.check_writable(args.out)
        tokenizer = _train(args)
    _show(tokenizer, args)
    return 0


def _train(args: Arguments) -> SentencePieceTokenizer:
    from ghost_native.data import SentencePieceTokenizer
    from ghost_native.models.atomic import atomic_file

    documents = Documents(args)
    with Work("reading") as work:
        tokenizer = SentencePieceTokenizer.train(
            _watched(documents, work), args.vocab_size, model_type=args.type, character_coverage=args.coverage,
            max_sentences=args.max_sentences, seed=args.seed,
        )  # fmt: skip
    with atomic_file(args.out) as temporary:
        temporary.write_bytes(tokenizer.model)
    terminal.rows(
        [
            ("training", terminal.duration(work.seconds)),
            ("saved", f"{args.out}, {terminal.size(args.out.stat().st_size)}"),
        ]
    )
    return tokenizer


def _watched(documents: Documents, work: Work) -> Iterator[str | bytes]:
    size = 0
    for text in documents:
        size += len(text.text)
        if work.due():
            work.show(documents.share(), terminal.size(size))
        yield text.text
    work.show(None, f"{terminal.size(size)} read, learning")


def _show(tokenizer: Tokenizer, args: Arguments) -> None:
    from ghost_native.data import decode

    specials = ", ".join(f"{name} {value}" for name, value in sorted(tokenizer.specials.items(), key=lambda s: s[1]))
    found: list[tuple[str, str]] = [
        ("tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens"),
        ("specials", specials or "none"),
    ]
    longest = sorted(range(tokenizer.vocab_size), key=lambda i: -len(tokenizer.decode_bytes([i])))[:8]
    found.append(("longest", "  ".join(repr(decode(tokenizer, [i])) for i in longest)))
    sample: list[Text] = []
    size = 0
    for text in Documents(args) if args.data else ():
        sample.append(text)
        size += len(text.data)
        if size >= _SAMPLE_BYTES:
            break
    if args.data and not size:
        raise CommandError("there is no text in what was named")
    if size:
        count = sum(map(len, tokenizer.encode_batch([text.text for text in sample])))
        found.append(("fertility", f"{per_token(size, count)}, on {terminal.size(size)} of what was named"))
        found.append(("a line", _cut(tokenizer, sample)))
    terminal.rows(found)


def _cut(tokenizer: Tokenizer, sample: list[Text]) -> str:
    """The longest of the first lines, its tokens apart."""
    lines = b"\n".join(text.data[:10_000] for text in sample[:8]).decode("utf-8", "replace").splitlines()
    line = max(lines, key=len, default="")[:_LINE]
    pieces: list[str] = []
    run: list[int] = []
    for token in tokenizer.encode(line):
        run.append(int(token))
        data = tokenizer.decode_bytes(run)
        try:
            pieces.append(terminal.visible(data.decode()))
            run = []
        except UnicodeDecodeError:  # a character spelled in bytes goes on
            continue
    return "│".join(pieces)
