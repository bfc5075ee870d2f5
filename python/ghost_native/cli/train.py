"""`ghost-native train`: one YAML file, or files and folders to read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_native.cli import blas, checkpoints, configuration, terminal
from ghost_native.cli.errors import EXIT_INTERRUPTED, CommandError, UsageError
from ghost_native.cli.parser import Arguments, Parser

if TYPE_CHECKING:
    from ghost_native.data.tokenizer import Tokenizer
    from ghost_native.train.assemble import Data
    from ghost_native.train.questions import Question
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
ghost-native train configs/questions.yaml --ask configs/questions.jsonl
mlx.launch -n 2 -- ghost-native train configs/production.yaml
"""


def add_arguments(parser: Parser) -> None:
    configuration.add_arguments(parser)
    parser.add_argument("--print-config", action="store_true", help="print every key, its value and meaning, and end")
    parser.add_argument("--dry-run", action="store_true",
                        help="check everything, show what would be trained and one batch, and end")  # fmt: skip
    parser.add_argument("--ask", type=Path, metavar="FILE",
                        help="of a model tuned to answer: ask these questions at the end, count the answers that are "
                        "right to the byte")  # fmt: skip
    folder = parser.add_argument_group("the run's folder, and the finished model")
    folder.add_argument("--resume", metavar="auto|STEP",
                        help="go on from the newest undamaged checkpoint there, or from that of a step")  # fmt: skip
    folder.add_argument("--overwrite", action="store_true",
                        help="replace the run in the folder as soon as the new one's first step is done")  # fmt: skip
    folder.add_argument("--out", type=Path, metavar="FILE", help="save the finished model here as well")
    folder.add_argument("--pack", action="store_true", help="save it in 2-bit weights: small, no more training")


def run(args: Arguments) -> int:
    config = configuration.read(args)
    if args.print_config:
        print(config.to_yaml(), end="")
        return 0
    if args.out is not None:
        checkpoints.check_writable(args.out)
    elif args.pack:
        raise UsageError("--pack needs --out FILE to save the packed model to")
    questions = _questions(args.ask, config) if args.ask is not None else []
    used = blas.prepare()
    from ghost_native.cli.display import Display
    from ghost_native.cli.interrupt import Interrupt
    from ghost_native.train.assemble import build_run, build_tokenizer
    from ghost_native.train.ranks import Ranks

    ranks = Ranks.found()
    display = Display("tokens" if config.train.tokenizer_path else "B", quiet=not ranks.first)
    made, data = build_run(config, ranks=ranks, watcher=display)
    if ranks.first:
        _introduce(config, made, data, used.line(), ranks.size)
    if args.dry_run:
        return _show_batch(made) if ranks.first else 0
    tokenizer = build_tokenizer(config)  # as it is now, whatever becomes of its file
    ranks.end_with_a_lost_peer()
    with made.locked():
        _go_back(args, made)
        with Interrupt() as interrupt, display:
            summary = made.train(lambda: interrupt.requested, overwrite=args.overwrite)
        if not ranks.first:
            return 0
        code = _finish(args, config, made, data, tokenizer, summary)  # no other run may replace the model meanwhile
    if questions and not summary.interrupted:
        _ask(made, tokenizer, questions)
    return code


def _go_back(args: Arguments, made: Run) -> None:
    """Go back to a checkpoint, or make sure that none is lost."""
    if args.resume is not None:
        if args.resume != "auto" and not args.resume.isdigit():
            raise UsageError(f"--resume is auto or the number of a step, given {args.resume!r}")
        if made.resume(None if args.resume == "auto" else int(args.resume)) > 0 or made.checkpoints.steps():
            return
    held = made.replaces()
    if held and (made.checkpoints.exported or not args.overwrite):
        raise CommandError(f"{held}: {_ways(made)}")
    if args.resume is not None and made.trainer.ranks.first:
        terminal.remark(f"there is no checkpoint in {made.folder} yet; a new run begins")


def _ways(made: Run) -> str:
    """What to do where a new run would replace something."""
    if made.checkpoints.exported:
        return "--save-dir FOLDER trains elsewhere"
    ways = ["--resume goes on with it"] if made.checkpoints.steps() else []
    other = "--save-dir FOLDER" if made.checkpoints.holds() else "--set train.log_path=FOLDER"
    return ", ".join([*ways, "--overwrite starts over", f"{other} keeps both"])


def _introduce(config: RunConfig, made: Run, data: Data, blas_line: str, processes: int) -> None:
    train = config.train
    terminal.remark(blas_line)
    for remark in (data.describe, *config.remarks()):
        terminal.remark(remark)
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


def _save(out: Path, model: Any, tokenizer: Tokenizer, finished: str, pack: bool) -> None:
    """The finished model and its tokenizer, in a file of its own."""
    from ghost_native.models.atomic import atomic_file
    from ghost_native.train.saved import beside, keep_tokenizer

    replaces = out.exists()
    if pack:
        type(model).load(finished).pack().save(out)
    else:
        with atomic_file(out) as temporary:
            shutil.copyfile(finished, temporary)
    keep_tokenizer(tokenizer, beside(out), replaces=replaces)


def _finish(args: Arguments, config: RunConfig, made: Run, data: Data, tokenizer: Tokenizer, summary: Summary) -> int:
    model = made.trainer.model
    if summary.model_path is None:
        if not summary.interrupted:
            raise CommandError(
                f"nothing is left to train after step {summary.steps}; {made.folder} holds later checkpoints and is as "
                f"it was; the model of this step is {made.checkpoints.path(summary.steps)}"
            )
        terminal.err().print(f"interrupted before the first step; {made.folder} is as it was")
        return EXIT_INTERRUPTED
    if args.out is not None:
        _save(args.out, model, tokenizer, summary.model_path, pack=args.pack and not summary.interrupted)
    if summary.interrupted:
        terminal.err().print(
            f"interrupted after {summary.steps} steps; saved {summary.checkpoint_path}. To go on: the same command "
            "with --resume auto"
        )
        return EXIT_INTERRUPTED
    saved = args.out or Path(summary.model_path)
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
        with made.averaged():
            model.eval()
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


def _questions(path: Path, config: RunConfig) -> list[Question]:
    """Read before the training, so that a mistake in them costs none."""
    from ghost_native.train.questions import read_questions

    if config.train.stage == "pretrain":
        raise UsageError("--ask is for models tuned to answer: train.stage sft or dpo, given pretrain")
    if not path.exists():  # what is no file here would be looked for on the Hub
        raise CommandError(f"no such file of questions: {path}")
    return read_questions(path, config.data.fields("sft"))


def _ask(made: Run, tokenizer: Tokenizer, questions: list[Question]) -> None:
    from ghost_native.train.questions import ask

    with terminal.working("asking the questions"), made.averaged():
        made.trainer.model.eval()
        found = ask(made.trainer.model, tokenizer, questions)
    terminal.heading("Questions")
    for question, right, said in found.failures:
        terminal.rows([("wrong", terminal.visible(f"{question} {said!r}, right is {right!r}"))])
    terminal.out().print(f"  {found.right} of {found.asked} answered right to the byte, {found.share:.1%}")
