"""`ghost-native compare`: models trained on the same bytes for the same time, one after the other."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ghost_native.cli import blas, terminal
from ghost_native.cli.configuration import ENDINGS
from ghost_native.cli.errors import EXIT_INTERRUPTED, CommandError, UsageError
from ghost_native.cli.parser import Arguments, Parser, number

if TYPE_CHECKING:
    from ghost_native.data import Document
    from ghost_native.train.run import Summary
    from ghost_native.train.run_config import RunConfig

DESCRIPTION = """\
Train models on the same bytes, each for the same wall-clock time on the whole machine, and score the same held-out
documents. Without configurations these are a Ghost and a transformer of as many parameters, both with 2-bit weights and
the same precision. Writes comparison.md, the curves as a PNG and the folder of each run."""

EXAMPLES = """\
ghost-native compare --seconds 600
ghost-native compare texts/ --seconds 60 --out comparison
ghost-native compare ghost.yaml transformer.yaml texts/
"""

# The same sequences, scores and checkpoints, and as many parameters: 1.20 M and 1.18 M.
_SHARED = {"data.seq_len": 128, "train.micro_batch_size": 16, "train.optimizer": "adamw", "train.betas": (0.9, 0.99),
           "train.weight_decay": 0.01, "train.precision": "bfloat16", "train.eval_interval": 500,
           "train.ckpt_interval": 1000}  # fmt: skip
PAIR: dict[str, dict[str, Any]] = {
    "ghost": {**_SHARED, "model.type": "ghost", "model.dim": 128, "model.num_layers": 4, "model.stride": 32,
              "train.lr": 6e-3, "train.min_lr": 1.2e-4},
    "transformer": {**_SHARED, "model.type": "transformer", "model.vocab_size": 256, "model.n_layers": 4,
                    "model.d_model": 128, "model.n_heads": 4, "model.mlp_multiple": 4.5, "model.dropout": 0.0,
                    "model.weights": "codebook", "model.max_seq_len": 128,  # it cannot use a context it never saw
                    "train.lr": 3e-3, "train.min_lr": 6e-5},
}  # fmt: skip


_WHICH_DATA = ("dataset", "config", "split", "paths", "format", "heldout", "heldout_paths", "text_field", "seed")


@dataclass(frozen=True)
class Result:
    """One model of the comparison."""

    name: str
    parameters: int
    summary: Summary
    bpb: float
    score_rate: float  # bytes scored per second
    estimated_bytes: float


def add_arguments(parser: Parser) -> None:
    parser.add_argument("inputs", nargs="*", metavar="CONFIG.yaml|PATH",
                        help="configurations, files and folders (default: a pair on this Python's text)")  # fmt: skip
    parser.add_argument("--seconds", type=number(float, 0, above=True), default=600.0, metavar="S",
                        help="of training for each model (default 600)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("comparison"), metavar="FOLDER",
                        help="where runs and report go (default %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=number(int, 0), default=0, metavar="N", help="of weights and data (default 0)")


def run(args: Arguments) -> int:
    from ghost_native.train.checkpoint import CheckpointFolder

    configs = read(args)
    for name in configs:
        if held := CheckpointFolder(args.out / name).holds():
            raise CommandError(f"{args.out / name} holds {held} already; give another --out")
    terminal.remark(blas.prepare().line())
    results: list[Result] = []
    heldout: list[Document] = []
    for name, config in configs.items():
        gc.collect()  # trainers are in reference cycles, and the peak of one model is not to count for the next
        result, heldout = _train(name, config)
        if result is None:
            return EXIT_INTERRUPTED
        results.append(result)
    _report(args.out, results, heldout, args.seconds)
    return 0


def read(args: Arguments) -> dict[str, RunConfig]:
    """The configurations by name, all with the same data, time and seed."""
    from ghost_native.train.assemble import PYTHON
    from ghost_native.train.run_config import RunConfig

    files = [Path(name) for name in args.inputs if Path(name).suffix in ENDINGS]
    paths = tuple(name for name in args.inputs if Path(name).suffix not in ENDINGS)
    if len(files) == 1:
        raise UsageError(f"one configuration has nothing to be compared with, given {files[0]}; give two or none")
    if len({file.stem for file in files}) < len(files):
        raise UsageError("configurations are told apart by the names of their files, which are alike")
    common: dict[str, Any] = {"train.seconds": args.seconds, "train.seed": args.seed, "data.seed": args.seed}
    common |= {"data.paths": paths} if paths else {} if files else {"data.dataset": PYTHON}
    made = {}
    sources: dict[str, Path | None] = {file.stem: file for file in files} or dict.fromkeys(PAIR)
    for name, file in sources.items():
        values = {**({} if file else PAIR[name]), **common, "train.save_dir": str(args.out / name)}
        made[name] = RunConfig.load(file, values=values)
    if len({tuple(getattr(config.data, key) for key in _WHICH_DATA) for config in made.values()}) > 1:
        raise CommandError("the configurations read different data; name the files and folders on the command line")
    return made


def _train(name: str, config: RunConfig) -> tuple[Result | None, list[Document]]:
    from ghost_native.cli.display import Display
    from ghost_native.cli.interrupt import Interrupt
    from ghost_native.train import evaluate
    from ghost_native.train.assemble import build_run
    from ghost_native.train.estimate import estimate

    with Interrupt() as interrupt, Display() as display:
        made, data = build_run(config, watcher=display)
        if not data.heldout:
            raise CommandError("there is no held-out text to compare on; set data.heldout or data.heldout_paths")
        model = made.trainer.model
        terminal.heading(f"{name}: {model.count_params():,} parameters, {terminal.duration(config.train.seconds or 0)}")
        summary = made.train(lambda: interrupt.requested)
    if summary.interrupted:
        terminal.err().print(f"interrupted; {name} is saved in {made.folder}")
        return None, []
    with terminal.working("scoring the held-out text"), made.averaged():
        model.eval()
        found = evaluate(model, data.heldout)
    needed = estimate(config, peak_flops=1.0).peak_bytes
    return Result(name, model.count_params(), summary, found.bpb, found.bytes_per_second, needed), data.heldout


def _report(folder: Path, results: Sequence[Result], heldout: list[Document], seconds: float) -> None:
    from ghost_native.data import baselines

    rivals = baselines(heldout)
    size = sum(len(document) for document in heldout)
    terminal.heading(f"Held-out text: {size:,} bytes, {terminal.plural(len(heldout), 'document')}")
    found = {result.name: result.bpb for result in results}
    terminal.scores({**found, "gzip -9": rivals["gzip"], "xz -9e": rivals["xz"]})
    rows = [_row(result) for result in results]
    table = Table(box=None, padding=(0, 2), show_header=False)  # a model a column: nine figures are too wide
    for i in range(len(rows) + 1):
        table.add_column(justify="right" if i else "left")
    for figure in zip(_COLUMNS, *rows, strict=True):
        table.add_row(*figure)
    terminal.out().print(table)
    lines = [
        f"# Trained for {terminal.duration(seconds)} each on the same bytes",
        "",
        f"Bits per byte of {size:,} held-out bytes; gzip -9 takes {rivals['gzip']:.3f}, xz -9e {rivals['xz']:.3f}.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'---|' * len(_COLUMNS)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    curves = _curves(folder, results)
    if curves:
        lines += [f"![curves]({curves.name})", ""]
    path = folder / "comparison.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    terminal.rows([("report", str(path))])


_COLUMNS = (
    "model", "parameters", "bpb", "steps", "bytes trained on", "bytes/s", "bytes/s scored", "peak memory", "estimated",
)  # fmt: skip


def _row(result: Result) -> tuple[str, ...]:
    summary = result.summary
    return (
        result.name,
        f"{result.parameters:,}",
        f"{result.bpb:.3f}",
        f"{summary.steps:,}",
        f"{summary.tokens:,}",
        f"{summary.throughput:,.0f}",
        f"{result.score_rate:,.0f}",
        terminal.size(summary.peak_memory_bytes),
        terminal.size(result.estimated_bytes),
    )


def _curves(folder: Path, results: Sequence[Result]) -> Path | None:
    """A picture of the runs where matplotlib is there."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        terminal.remark("no curves: pip install 'ghost-native[plot]' for them")
        return None
    from ghost_native.cli.plot import SHOWN, draw
    from ghost_native.train.logs import read_metrics

    path = folder / "comparison.png"
    runs = {result.name: read_metrics(folder / result.name) for result in results}
    draw(runs, SHOWN, "time", 0.9).savefig(path, dpi=110)
    return path
