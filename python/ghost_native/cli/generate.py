"""`ghost-native generate`: continue a text, streaming to the terminal."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from ghost_native.cli import checkpoints, terminal
from ghost_native.cli.errors import UsageError
from ghost_native.cli.parser import Arguments, Parser, escaped_bytes, fact, number

if TYPE_CHECKING:
    import numpy as np

    from ghost_native.data.tokenizer import Tokenizer

DESCRIPTION = """\
Continue a text byte by byte, or token by token with a transformer of tokens. On a terminal the text appears as it is
drawn; into a pipe or file go the bytes as they are, the generated ones only. With --chat the text is a question to a
model tuned on conversations, and its answer ends where the model ends it."""

EXAMPLES = r"""
ghost-native generate ghost.safetensors "def " --temperature 0.7 --top-p 0.95
ghost-native generate ghost.safetensors "Q: capital of Zembla? A: " --fact "capital of Zembla=Onhava" --temperature 0 --stop "\n"
ghost-native generate ghost.safetensors --prompt-file start.txt --max-bytes 2000 --seed 7 > more.txt
ghost-native generate checkpoints/questions --chat "What is the capital of France?" --temperature 0
echo "Once upon a time" | ghost-native generate ghost.safetensors -
"""  # noqa: E501 - an example is one line


def add_arguments(parser: Parser) -> None:
    checkpoints.add_model(parser)
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="text to continue; - reads it from stdin")
    parser.add_argument("--prompt-file", type=Path, metavar="FILE", help="continue the bytes of this file; - is stdin")
    parser.add_argument("--chat", action="store_true",
                        help="ask a model tuned on conversations (stages sft and dpo)")  # fmt: skip
    parser.add_argument("--max-bytes", type=number(int, 0), default=256, metavar="N", help="stop after N (default 256)")
    parser.add_argument("--temperature", type=number(float, 0), default=0.8, metavar="T",
                        help="0 takes the most likely byte, higher is more daring (default 0.8)")  # fmt: skip
    parser.add_argument("--top-p", type=number(float, 0, 1, above=True), default=1.0, metavar="P",
                        help="draw from the most likely bytes that reach this probability (default 1)")  # fmt: skip
    parser.add_argument("--seed", type=number(int, 0), metavar="N", help="the same seed gives the same text")
    parser.add_argument("--fact", type=fact, action="append", default=[], metavar="KEY=VALUE",
                        help="tell the model a fact first; may be repeated")  # fmt: skip
    parser.add_argument("--stop", type=escaped_bytes, metavar="TEXT", help=r"end before this text; \n is understood")


def run(args: Arguments) -> int:
    prompt = _prompt(args)
    if args.chat and not prompt.strip():
        raise UsageError("--chat needs a PROMPT to answer")
    from ghost_native.generate import generate

    saved = checkpoints.load(args.checkpoint, args.tokenizer)
    model, tokenizer = saved.model, saved.chat if args.chat else saved.tokenizer
    checkpoints.store_facts(model, args.fact)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    drawn = generate(
        model,
        _asked(prompt, saved.chat) if args.chat else prompt,
        max_bytes=args.max_bytes,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=seed,
        stop=args.stop,
        tokenizer=tokenizer,
    )
    if not sys.stdout.isatty():
        for byte in drawn:
            sys.stdout.buffer.write(bytes((byte,)))
            sys.stdout.buffer.flush()
        return 0
    shown = terminal.visible(prompt.decode("utf-8", "replace"))
    terminal.out().print(Text(shown, "dim"), end="\n" if args.chat else "")
    _stream(drawn, seed)
    return 0


def _asked(prompt: bytes, tokenizer: Tokenizer) -> np.ndarray:
    """The tokens after which the answer to `prompt` begins."""
    from ghost_native.data.chat import ChatTemplate, Message

    return ChatTemplate(tokenizer).prompt([Message("user", prompt.decode("utf-8", "replace").removesuffix("\n"))])


def _stream(drawn: Iterable[int], seed: int) -> None:
    from ghost_native.generate import decode_stream

    count = 0
    begin = time.perf_counter()

    def counted() -> Iterator[int]:
        nonlocal count
        for byte in drawn:
            count += 1
            yield byte

    try:
        for text in decode_stream(counted()):
            sys.stdout.write(terminal.visible(text))
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    seconds = time.perf_counter() - begin
    terminal.remark(f"{count} bytes, {terminal.rate(count / max(seconds, 1e-9))}, seed {seed}")


def _prompt(args: Arguments) -> bytes:
    if args.prompt is not None and args.prompt_file is not None:
        raise UsageError("given both PROMPT and --prompt-file, allowed is one of them")
    if args.prompt == "-" or (args.prompt_file is not None and str(args.prompt_file) == "-"):
        return sys.stdin.buffer.read()
    if args.prompt_file is not None:
        return bytes(args.prompt_file.read_bytes())
    return str(args.prompt or "").encode("utf-8", "surrogateescape")
