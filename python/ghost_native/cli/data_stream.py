"""`ghost-native data stream`: samples of what training would see."""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING

from rich.text import Text

from ghost_native.cli import terminal
from ghost_native.cli.data_input import add_input, add_tokenizer
from ghost_native.cli.parser import Arguments, Parser, number

if TYPE_CHECKING:
    from ghost_native.data import TokenBatch, Tokenizer

DESCRIPTION = """\
Print windows as training would be fed them: shuffled, tokenized, packed and decoded again, special tokens shown as
<|name|>. Where the loss counts only part of a window, that part stands in bold green, or between the brackets ⟦ and ⟧
where there are no colours. DATA may also be a folder of shards."""

EXAMPLES = """\
ghost-native data stream notes/ --samples 2 --seqlen 200
ghost-native data stream notes-shards --tokenizer notes.model
ghost-native data stream chats.jsonl --stage sft --seqlen 512
ghost-native data stream HuggingFaceH4/ultrafeedback_binarized --split train_prefs --stage preference
"""


def add_arguments(parser: Parser) -> None:
    add_input(parser)
    add_tokenizer(parser)
    parser.add_argument("--samples", type=number(int, 1), default=3, metavar="N", help="windows to print (default 3)")
    parser.add_argument("--seqlen", type=number(int, 1), default=256, metavar="N", help="tokens each (default 256)")
    parser.add_argument("--shuffle-buffer", type=number(int, 1), default=1000, metavar="N",
                        help="rows read ahead and shuffled (default 1000)")  # fmt: skip
    parser.add_argument("--seed", type=number(int, 0), default=0, metavar="N", help="of the order (default 0)")
    parser.add_argument("--no-packing", action="store_true", help="one conversation a window, with --stage sft")
    parser.add_argument("--ids", action="store_true", help="print the ids of the tokens too")


def run(args: Arguments) -> int:
    from ghost_native.data import PreferenceBatch, TokenBatch, load_tokenizer, open_source

    tokenizer = load_tokenizer(args.tokenizer)
    data = args.data[0] if len(args.data) == 1 else args.data
    with terminal.working("opening the data"):
        source, skipped = open_source(
            data, tokenizer, 1, args.seqlen, stage=args.stage, config=args.config, split=args.split,
            text_field=args.text_field, shuffle_buffer=args.shuffle_buffer, cache_dir=args.cache_dir,
            streaming=not args.no_streaming, seed=args.seed, packing=not args.no_packing,
        )  # fmt: skip
    for skip in skipped:
        terminal.remark(f"skipped {skip.name}: {skip.reason}")
    for index, batch in enumerate(islice(source, args.samples), 1):
        if isinstance(batch, PreferenceBatch):
            _show(f"sample {index}, chosen", batch.chosen, tokenizer, args.ids)
            _show(f"sample {index}, rejected", batch.rejected, tokenizer, args.ids)
        elif isinstance(batch, TokenBatch):
            _show(f"sample {index}", batch, tokenizer, args.ids)
    left_out = getattr(source, "left_out", {})
    for reason, count in sorted(left_out.items()):
        terminal.remark(f"left out {terminal.plural(count, 'row')}: {reason}")
    return 0


def _show(title: str, batch: TokenBatch, tokenizer: Tokenizer, with_ids: bool) -> None:
    from ghost_native.data import decode

    tokens = [int(token) for token in batch.tokens[0]]
    weight = [0.0] * len(tokens)
    if batch.weight is None or batch.weight[0, -1] > 0:
        tokens.append(int(batch.targets[0, -1]))
        weight.append(0.0)
    if batch.weight is not None:
        weight = [0.0, *(float(w) for w in batch.weight[0])][: len(tokens)]
    pad = tokenizer.specials.get("pad")
    used = len(tokens)
    while used and tokens[used - 1] == pad:
        used -= 1
    counted = "all count" if batch.weight is None else f"{batch.num_targets:,} count"
    padding = f", {len(tokens) - used:,} padding" if used < len(tokens) else ""
    terminal.heading(f"{title}: {terminal.plural(used, 'token')}{padding}, {counted}")
    text = Text()
    colours = terminal.out().is_terminal
    for counts, group in groupby(zip(tokens[:used], weight[:used], strict=True), key=lambda pair: pair[1] > 0):
        piece = terminal.visible(decode(tokenizer, [token for token, _ in group], specials=True))
        if counts and not colours:
            piece = f"⟦{piece}⟧"
        text.append(piece, "bold green" if counts else "")
    terminal.out().print(text)
    if with_ids:
        terminal.out().print(" ".join(map(str, tokens[:used])), style="dim")
