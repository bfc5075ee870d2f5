"""`ghost-native train`: one YAML file, or files and folders to read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_native.cli import blas, checkpoints, terminal
from ghost_native.cli.errors import EXIT_INTERRUPTED, CommandError, UsageError
from ghost_native.cli.parser import Arguments, Parser, number

if TYPE_CHECKING:
    from ghost_native.train.assemble import Data
    from ghost_native.train.run import Run, Summary
    from ghost_native.train.run_config import RunConfig

DESCRIPTION = """\
Train a Ghost or a transformer. What and how is said by a YAML file, by options, or by both, where options win; files
and folders named are read instead of the data of the file. Part of the text is held out and scored. Checkpoints and
logs go to the run's folder, from which --resume goes on exactly where the run was. Ctrl-C finishes the step and saves;
a second one ends at once."""

EXAMPLES = """\
ghost-native train notes/ --seconds 600 --out notes.safetensors
ghost-native train configs/quick_test.yaml texts/ --set train.lr=3e-3 --set model.dim=192
ghost-native train configs/production.yaml --resume auto
ghost-native train book.txt --preset production --steps 2000 --dry-run
ghost-native train more.txt --init notes.safetensors --seconds 120
mlx.launch -n 2 -- ghost-native train configs/production.yaml
"""

ENDINGS = (".yaml", ".yml")
DEFAULT_PRESET = "quick_test"
FACT_MIX = 0.1  # of the batches after the fact phase

# Options that are short for a key.
_KEYS = {
    "dim": "model.dim",
    "layers": "model.num_layers",
    "init": "train.checkpoint_path",
    "steps": "train.total_steps",
    "seconds": "train.seconds",
    "batch": "train.micro_batch_size",
    "seqlen": "data.seq_len",
    "learning_rate": "train.lr",
    "precision": "train.precision",
    "save_dir": "train.save_dir",
}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("inputs", nargs="*", metavar="CONFIG.yaml|PATH",
                        help="a configuration (docs/configuration.md explains all keys), files or folders")  # fmt: skip
    parser.add_argument("--preset", metavar="NAME",
                        help="start from speed, production, phone, quick_test or maximum (Ghost), or from tiny, small, "
                        f"medium or large (transformer); {DEFAULT_PRESET} without a configuration file")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
                        help="change any key, such as train.lr=1e-3; may be given several times")  # fmt: skip
    parser.add_argument(
        "--print-config", action="store_true", help="print every key with its value and meaning, and end"
    )
    parser.add_argument("--dry-run", action="store_true",
                        help="check everything, show what would be trained and one batch, and end")  # fmt: skip
    folder = parser.add_argument_group("the run's folder")
    folder.add_argument(
        "--save-dir", metavar="FOLDER", help="checkpoints and logs (default: beside --out, or as configured)"
    )
    folder.add_argument("--resume", metavar="auto|STEP",
                        help="go on from the newest undamaged checkpoint there, or from that of a step")  # fmt: skip
    folder.add_argument("--overwrite", action="store_true", help="start over although the folder holds checkpoints")
    folder.add_argument("--out", type=Path, metavar="FILE", help="save the finished model here as well")
    folder.add_argument(
        "--pack", action="store_true", help="save it there in 2-bit weights: small and final, no more training"
    )
    short = parser.add_argument_group("short for keys of the configuration")
    short.add_argument("--dim", type=number(int, 16), metavar="N", help="width of a Ghost, a multiple of 16")
    short.add_argument("--layers", type=number(int, 1), metavar="N", help="its number of layers")
    short.add_argument("--init", metavar="CHECKPOINT", help="start from this model instead of a fresh one")
    length = short.add_mutually_exclusive_group()
    length.add_argument("--steps", type=number(int, 1), metavar="N", help="steps on text")
    length.add_argument("--seconds", type=number(float, 0, above=True), metavar="S",
                        help="seconds of training; the schedule follows the clock")  # fmt: skip
    short.add_argument("--batch", type=number(int, 1), metavar="N", help="texts side by side")
    short.add_argument("--seqlen", type=number(int, 1), metavar="N", help="tokens of each per step")
    short.add_argument("--learning-rate", type=number(float, 0, above=True), metavar="X", help="peak of the schedule")
    short.add_argument("--precision", choices=("float32", "bfloat16", "float16"), help="of products while training")
    short.add_argument("--facts", type=number(float, 0, 0.9), metavar="SHARE",
                       help="share of the run spent learning to use facts, first (default 0: none)")  # fmt: skip
    short.add_argument("--seed", type=number(int, 0), metavar="N", help="of weights and data (default 0)")
    short.add_argument("--heldout", metavar="SHARE|PATH",
                       help="share of the text to hold out, 0 to 0.5, or a file or folder (default 0.05)")  # fmt: skip


def run(args: Arguments) -> int:
    config = configuration(args)
    if args.print_config:
        print(config.to_yaml(), end="")
        return 0
    if args.out is not None:
        checkpoints.check_writable(args.out)
    elif args.pack:
        raise UsageError("--pack needs --out FILE to save the packed model to")
    used = blas.prepare()
    from ghost_native.cli.display import Display
    from ghost_native.cli.interrupt import Interrupt
    from ghost_native.train.assemble import build_run
    from ghost_native.train.ranks import Ranks

    ranks = Ranks.found()
    display = Display("tokens" if config.train.tokenizer_path else "B", quiet=not ranks.first)
    made, data = build_run(config, ranks=ranks, watcher=display)
    if ranks.first:
        _introduce(config, made, data, used.line(), ranks.size)
    if args.dry_run:
        return _show_batch(made) if ranks.first else 0
    _prepare_folder(args, made)
    if ranks.first:
        made.folder.mkdir(parents=True, exist_ok=True)
        (made.folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    ranks.end_with_a_lost_peer()
    with Interrupt() as interrupt, display:
        summary = made.train(lambda: interrupt.requested)
    if not ranks.first:
        return 0
    return _finish(args, config, made, data, summary)


def configuration(args: Arguments) -> RunConfig:
    """The configuration that a command line means."""
    from ghost_native.train.run_config import RunConfig

    files = [name for name in args.inputs if Path(name).suffix in ENDINGS]
    if len(files) > 1:
        raise UsageError(f"one configuration file at a time, given {' and '.join(files)}")
    paths = [name for name in args.inputs if name not in files]
    values = {key: getattr(args, option) for option, key in _KEYS.items() if getattr(args, option) is not None}
    if paths:
        values["data.paths"] = tuple(paths)
    if args.facts is not None:
        values |= {"train.fact_share": args.facts, "train.fact_mix": FACT_MIX if args.facts else 0.0}
    if args.seed is not None:
        values |= {"train.seed": args.seed, "data.seed": args.seed}
    values |= _heldout(args.heldout)
    if not files and "train.save_dir" not in values and args.out is not None:
        values["train.save_dir"] = str(args.out.with_name(f"{args.out.stem}-run"))
    preset = args.preset or (None if files else DEFAULT_PRESET)
    if args.init is not None:
        if args.dim is not None or args.layers is not None:
            raise UsageError("--init brings its own size; leave out --dim and --layers")
        values |= _size_of(args.init)
    return RunConfig.load(files[0] if files else None, preset=preset, values=values, changes=args.changes)


def _heldout(text: str | None) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        return {"data.heldout": float(text)}
    except ValueError:
        return {"data.heldout_paths": (text,)}


def _size_of(path: str) -> Mapping[str, Any]:
    """The model's configuration, so that nothing has to be said twice."""
    model = checkpoints.load(Path(path))
    if model.is_packed:
        raise CommandError(f"{path} is packed to 2 bits, which cannot be trained; use one saved without --pack")
    return {f"model.{name}": value for name, value in model.config.to_dict().items()}


def _prepare_folder(args: Arguments, made: Run) -> None:
    """Go back to a checkpoint, or make sure that none is lost."""
    steps = made.checkpoints.steps()
    if args.resume is not None:
        if args.resume != "auto" and not args.resume.isdigit():
            raise UsageError(f"--resume is auto or the number of a step, given {args.resume!r}")
        if made.resume(None if args.resume == "auto" else int(args.resume)) == 0:
            terminal.remark(f"there is no checkpoint in {made.folder} yet; a new run begins")
        return
    if steps and not args.overwrite:
        raise CommandError(
            f"{made.folder} holds a run of {steps[-1]} steps: --resume goes on with it, --overwrite starts over, "
            "--save-dir FOLDER keeps both"
        )
    if made.trainer.ranks.first:
        made.checkpoints.drop_after(-1)


def _introduce(config: RunConfig, made: Run, data: Data, blas_line: str, processes: int) -> None:
    train = config.train
    terminal.remark(blas_line)
    terminal.remark(data.describe)
    kind = "Ghost" if config.model_type == "ghost" else "transformer"
    rows = train.micro_batch_size * train.grad_accum_steps * processes
    length = f"{train.total_steps} steps" if train.total_steps else terminal.duration(train.seconds or 0)
    terminal.remark(
        f"{kind} with {made.trainer.model.count_params() / 1e6:.2f} M parameters; {length} of {rows} x "
        f"{config.data.seq_len} {'tokens' if train.tokenizer_path else 'bytes'}"
        + (f" on {processes} processes" if processes > 1 else "")
        + f"; checkpoints in {made.folder}; Ctrl-C saves"
    )


def _show_batch(made: Run) -> int:
    """The beginning of what the first row of the first batch holds."""
    from ghost_native.data.batch import PreferenceBatch

    batch = next(made.trainer.source)
    sides = (batch.chosen, batch.rejected) if isinstance(batch, PreferenceBatch) else (batch,)
    terminal.heading("The first row of the first batch")
    for side in sides:
        counted = side.num_targets / side.targets.size
        terminal.out().print(f"  {side.tokens[0, :24].tolist()} ..., {counted:.0%} of the targets count")
    terminal.out().print("Everything is in order; nothing was trained.")
    return 0


def _finish(args: Arguments, config: RunConfig, made: Run, data: Data, summary: Summary) -> int:
    model = made.trainer.model
    if args.out is not None:
        if args.pack and not summary.interrupted:
            with made.averaged():
                model.pack()
            model.save(args.out)
        else:
            shutil.copyfile(summary.model_path or "", args.out)
    if summary.interrupted:
        terminal.err().print(
            f"interrupted after {summary.steps} steps; saved {summary.checkpoint_path}. To go on: the same command "
            "with --resume auto"
        )
        return EXIT_INTERRUPTED
    saved = args.out or Path(summary.model_path or "")
    unit = "tokens" if config.train.tokenizer_path else "B"
    rate = terminal.rate(summary.throughput) if unit == "B" else f"{summary.throughput:,.0f} tokens/s"
    terminal.rows(
        [
            ("training", f"{summary.steps} steps in {terminal.duration(summary.seconds)}, {rate}, "
                         f"{data.source.epoch:.2f} times through the text"),
            ("memory", f"{summary.peak_memory_bytes / 1e9:.2f} GB at most"),
            ("saved", f"{saved}, {terminal.size(saved.stat().st_size)}"),
            ("logs", f"{made.logs}; ghost-native plot {made.folder}"),
        ]
    )  # fmt: skip
    if data.heldout:
        _score(config, model, data)
    return 0


def _score(config: RunConfig, model: Any, data: Data) -> None:
    from ghost_native.data import baselines
    from ghost_native.train import evaluate

    with terminal.working("scoring the held-out text"):
        found = evaluate(model, data.heldout)
        rivals = baselines(data.heldout)
    terminal.heading(f"Held-out text: {found.num_bytes:,} bytes, {terminal.plural(len(data.heldout), 'document')}")
    name = "Ghost" if config.model_type == "ghost" else "transformer"
    terminal.scores({name: found.bpb, "gzip -9": rivals["gzip"], "xz -9e": rivals["xz"]})
