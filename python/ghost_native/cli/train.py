"""`ghost-native train`: the bytes of files or folders."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_native.cli import blas, checkpoints, terminal
from ghost_native.cli.errors import CommandError
from ghost_native.cli.parser import Arguments, Parser, number

if TYPE_CHECKING:
    from ghost_native.data import Corpus
    from ghost_native.models import Ghost

DESCRIPTION = """\
Train a Ghost on the bytes of files, or of every file below folders. Part of the text is held out, whole files where
there are several, and scored at the end beside gzip and xz. Ctrl-C saves what is there."""

EXAMPLES = """\
ghost-native train notes/ --seconds 600 --out notes.safetensors
ghost-native train book.txt --preset production --steps 2000
ghost-native train src/ docs/ --heldout tests/ --learning-rate 3e-3
ghost-native train more.txt --init notes.safetensors --seconds 120
"""

PRESETS = ("speed", "production", "phone", "quick_test", "maximum")
FACT_MIX = 0.1  # of the batches after the fact phase


def add_arguments(parser: Parser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders to train on")
    parser.add_argument("--out", type=Path, default=Path("ghost.safetensors"), metavar="FILE",
                        help="where to save (default %(default)s)")  # fmt: skip
    parser.add_argument("--pack", action="store_true", help="save 2-bit weights: small and final, no more training")
    model = parser.add_argument_group("model")
    model.add_argument("--preset", choices=PRESETS, default="quick_test",
                       help="model size, batch, seqlen and steps (default %(default)s)")  # fmt: skip
    model.add_argument("--dim", type=number(int, 16), metavar="N", help="width, a multiple of 16")
    model.add_argument("--layers", type=number(int, 1), metavar="N", help="number of layers")
    model.add_argument("--init", type=Path, metavar="CHECKPOINT", help="start from this model instead of a fresh one")
    run = parser.add_argument_group("run (from the preset unless given)")
    length = run.add_mutually_exclusive_group()
    length.add_argument("--steps", type=number(int, 1), metavar="N", help="steps on text")
    length.add_argument("--seconds", type=number(float, 0, above=True), metavar="S",
                        help="seconds of training; the schedule follows the clock")  # fmt: skip
    run.add_argument("--batch", type=number(int, 1), metavar="N", help="texts side by side")
    run.add_argument("--seqlen", type=number(int, 1), metavar="N", help="bytes of each per step")
    run.add_argument("--learning-rate", type=number(float, 0, above=True), metavar="X", help="peak of the schedule")
    run.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of products with 2-bit weights: bfloat16 takes half the time on CPUs that have it (default bfloat16)",
    )
    run.add_argument("--facts", type=number(float, 0, 0.9), default=0.0, metavar="SHARE",
                     help="share of the run spent learning to use facts, first (default 0: none)")  # fmt: skip
    run.add_argument("--seed", type=number(int, 0), default=0, metavar="N", help="of weights and data (default 0)")
    run.add_argument("--heldout", default="0.05", metavar="SHARE|PATH",
                     help="share of the bytes to hold out, 0 to 0.5, or a file or folder (default 0.05)")  # fmt: skip


def run(args: Arguments) -> int:
    checkpoints.check_writable(args.out)
    corpus = _corpus(args)
    terminal.remark(blas.prepare().line())
    terminal.remark(corpus.summary())

    from ghost_native.cli.run_training import run_training
    from ghost_native.data import ByteBatcher
    from ghost_native.train import TrainConfig, Trainer

    model = _model(args)
    changes: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("steps", "seconds", "batch", "seqlen", "learning_rate", "precision")
        if getattr(args, name) is not None
    }
    config = TrainConfig.preset(
        args.preset, **changes, fact_share=args.facts, fact_mix=FACT_MIX if args.facts else 0.0, seed=args.seed
    )
    batcher = ByteBatcher(corpus.train, config.batch, config.seqlen, args.seed, run=config.reset_every)
    terminal.remark(
        f"Ghost with {model.count_params() / 1e6:.2f} M parameters; batches of {config.batch} x {config.seqlen} bytes; "
        "Ctrl-C saves"
    )
    outcome = run_training(model, Trainer(model, batcher, config), corpus.heldout)
    if outcome.interrupted:
        return checkpoints.save_interrupted(model, args.out, outcome.steps)
    if args.pack:
        model.pack()
    model.save(args.out)
    terminal.rows(
        [
            ("training", f"{outcome.steps} steps in {terminal.duration(outcome.seconds)}, "
                         f"{terminal.rate(outcome.bytes_per_second)}, {batcher.epoch:.2f} times through the text"),
            ("saved", f"{args.out}, {terminal.size(args.out.stat().st_size)}"),
        ]
    )  # fmt: skip
    _score(model, corpus)
    return 0


def _corpus(args: Arguments) -> Corpus:
    from ghost_native.data import Corpus, read_corpus, read_documents

    try:
        share = float(args.heldout)
    except ValueError:
        corpus = read_corpus(args.paths, heldout_fraction=0)
        heldout, skipped = read_documents(args.heldout)
        trained = {hashlib.blake2b(document.data).digest() for document in corpus.train}
        if any(hashlib.blake2b(document.data).digest() in trained for document in heldout):
            raise CommandError(
                f"files below --heldout {args.heldout} are also to be trained on; keep them apart"
            ) from None
        return Corpus(corpus.train, heldout, corpus.skipped + skipped)
    return read_corpus(args.paths, heldout_fraction=share)


def _model(args: Arguments) -> Ghost:
    from ghost_native.models import Ghost, GhostConfig

    if args.init is not None:
        if args.dim is not None or args.layers is not None:
            raise CommandError("--init brings its own size; leave out --dim and --layers")
        model = checkpoints.load(args.init)
        if model.is_packed:
            raise CommandError(
                f"{args.init} is packed to 2 bits, which cannot be trained; use one saved without --pack"
            )
        return model
    size = {"dim": args.dim, "num_layers": args.layers}
    config = GhostConfig.preset(args.preset, **{name: value for name, value in size.items() if value is not None})
    return Ghost(config, seed=args.seed)


def _score(model: Ghost, corpus: Corpus) -> None:
    from ghost_native.data import baselines
    from ghost_native.train import evaluate

    if not corpus.heldout:
        return
    with terminal.working("scoring the held-out text"):
        found = evaluate(model, corpus.heldout)
        rivals = baselines(corpus.heldout)
    terminal.heading(f"Held-out text: {found.num_bytes:,} bytes, {terminal.plural(len(corpus.heldout), 'document')}")
    terminal.scores({"Ghost": found.bpb, "gzip -9": rivals["gzip"], "xz -9e": rivals["xz"]})
