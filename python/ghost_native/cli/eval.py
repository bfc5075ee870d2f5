"""`ghost-native eval`: bits per byte of a checkpoint on files."""

from __future__ import annotations

import json
from pathlib import Path

from ghost_native.cli import blas, checkpoints, terminal
from ghost_native.cli.parser import Arguments, Parser, number

DESCRIPTION = """\
Score a checkpoint on files, or on every file below folders: bits per byte over all their bytes, beside gzip -9 and
xz -9e of the same bytes put one after the other. Lower is better; 8 is no idea at all."""

EXAMPLES = """\
ghost-native eval ghost.safetensors book.txt
ghost-native eval ghost.safetensors docs/ --json
"""


def add_arguments(parser: Parser) -> None:
    checkpoints.add_model(parser)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders to score")
    parser.add_argument("--chunk", type=number(int, 1), default=4096, metavar="N",
                        help="tokens scored at once; memory and speed, not the result (default 4096)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: Arguments) -> int:
    from ghost_native.data import baselines, read_documents

    documents, skipped = read_documents(args.paths)
    used = blas.prepare()
    from ghost_native.train import evaluate

    saved = checkpoints.load(args.checkpoint, args.tokenizer)
    model = saved.model
    with terminal.working(f"scoring {terminal.size(sum(map(len, documents)))}"):
        found = evaluate(model, documents, tokenizer=saved.encoder, chunk=args.chunk)
        rivals = baselines(documents)
    if args.json:
        result = {
            "checkpoint": str(args.checkpoint),
            "documents": len(documents),
            "skipped": len(skipped),
            "bytes": found.num_bytes,
            "bpb": found.bpb,
            "gzip_bpb": rivals["gzip"],
            "xz_bpb": rivals["xz"],
            "seconds": found.seconds,
            "bytes_per_second": found.bytes_per_second,
            "mean_depth": found.mean_depth,
            "skipped_share": found.skipped_share,
        }
        print(json.dumps(result))
        return 0
    terminal.remark(used.line())
    for skip in skipped:
        terminal.remark(f"skipped {skip.name}: {skip.reason}")
    terminal.heading(f"{found.num_bytes:,} bytes, {terminal.plural(len(documents), 'document')}")
    terminal.scores({type(model).__name__: found.bpb, "gzip -9": rivals["gzip"], "xz -9e": rivals["xz"]})
    terminal.rows(
        [
            ("time", f"{terminal.duration(found.seconds)}, {terminal.rate(found.bytes_per_second)}"),
            ("mean depth", f"{found.mean_depth:.2f} of {len(model.layers)} layers, "
                           f"{found.skipped_share:.1%} of the work skipped"),
        ]
    )  # fmt: skip
    return 0
