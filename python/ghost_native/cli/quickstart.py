"""`ghost-native quickstart`: train on the running Python's own text, then show everything the model can do."""

from __future__ import annotations

import platform
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from ghost_native.cli import blas, checkpoints, terminal
from ghost_native.cli.parser import Arguments, Parser, fact, number

if TYPE_CHECKING:
    from ghost_native.data import Corpus
    from ghost_native.models import Ghost

DESCRIPTION = """\
Train a small Ghost on the text of the Python that runs it: the help topics and the standard library's sources, whole
files held out. No network and no files are needed. Afterwards it is scored on the held-out files beside gzip and xz,
told a fact it never saw and asked about it, made to write a sample, and saved with 2-bit weights."""

EXAMPLES = """\
ghost-native quickstart
ghost-native quickstart --seconds 60 --out small.safetensors
ghost-native quickstart --fact "name of my cat=Tabitha"
"""

PRESET = "quick_test"
BATCH, SEQLEN = 16, 128
STRIDE = 32  # of the sparse attention: windows as short as these texts need
RESET_EVERY = 4  # windows: a short run sees few batches, and those next to each other should be of other files
LEARNING_RATE, FINAL_RATE, WEIGHT_DECAY = 6e-3, 0.02, 0.1  # the final rate as a share
FACT_SHARE, FACT_MIX = 0.10, 0.08  # of the time for facts alone, first; then of the batches
MARGIN = 0.99  # of the seconds are scheduled: the step in hand at the end still has to finish
DEFAULT_FACT = ("capital of Zembla", "Onhava")
SNIPPET_BYTES = 160


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--seconds",
        type=number(float, 0, above=True),
        default=240.0,
        metavar="S",
        help="seconds of training, text and facts; the schedule follows the clock (default 240)",
    )
    parser.add_argument("--seed", type=number(int, 0), default=0, metavar="N", help="of weights and data (default 0)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("ghost-quickstart.safetensors"),
        metavar="FILE",
        help="where to save (default %(default)s)",
    )
    parser.add_argument(
        "--fact",
        type=fact,
        default=DEFAULT_FACT,
        metavar="KEY=VALUE",
        help=f"the fact to tell it after training (default {DEFAULT_FACT[0]!r} = {DEFAULT_FACT[1]!r})",
    )


def run(args: Arguments) -> int:
    checkpoints.check_writable(args.out)
    terminal.remark(blas.prepare().line())
    import mlx.core as mx

    from ghost_native.cli.run_training import run_training
    from ghost_native.data import ByteBatcher, baselines, python_corpus
    from ghost_native.models import Ghost, GhostConfig
    from ghost_native.train import Trainer, TrainSection, evaluate

    corpus = python_corpus()
    terminal.remark(f"text of Python {platform.python_version()}: {corpus.summary()}")
    rivals = baselines(corpus.heldout)
    mx.random.seed(args.seed)
    model = Ghost(GhostConfig.preset(PRESET, stride=STRIDE), seed=args.seed)
    checkpoints.check_fact(model, *args.fact)
    config = TrainSection(
        micro_batch_size=BATCH,
        total_steps=None,
        seconds=MARGIN * args.seconds,
        optimizer="adamw",
        lr=LEARNING_RATE,
        min_lr=FINAL_RATE * LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        betas=(0.9, 0.99),
        precision="bfloat16",
        fact_share=FACT_SHARE,
        fact_mix=FACT_MIX,
        reset_every=RESET_EVERY,
        seed=args.seed,
    )
    terminal.remark(
        f"Ghost with {model.count_params() / 1e6:.2f} M parameters, {model.config.num_layers} layers of width "
        f"{model.config.dim}; training for {terminal.duration(args.seconds)}, Ctrl-C stops early"
    )
    source = ByteBatcher(corpus.train, BATCH, SEQLEN, args.seed, run=config.reset_every)
    plain = ByteBatcher(corpus.train, config.fact_text, SEQLEN, args.seed + 1, run=1)
    trainer = Trainer(model, source, config, plain=plain)
    outcome = run_training(model, trainer, corpus.heldout)
    if outcome.interrupted:
        return checkpoints.save_interrupted(model, args.out, outcome.steps)

    model.pack()
    model.save(args.out)  # at once: whatever happens from here on, the training is not lost
    with terminal.working("scoring the held-out files"):
        found = evaluate(model, corpus.heldout)
    terminal.heading(f"Held-out text: {found.num_bytes:,} bytes of {len(corpus.heldout)} files it never saw")
    terminal.scores({"Ghost": found.bpb, "gzip -9": rivals["gzip"], "xz -9e": rivals["xz"]})
    terminal.rows(
        [
            ("training", f"{terminal.duration(outcome.seconds)}, {outcome.steps} steps, "
                         f"{terminal.rate(outcome.bytes_per_second)}"),
            ("scoring", f"{terminal.duration(found.seconds)}, {terminal.rate(found.bytes_per_second)}"),
            ("mean depth", f"{found.mean_depth:.2f} of {model.config.num_layers} layers"),
            ("work skipped", f"{found.skipped_share:.1%}" + ("" if model.config.routing else " (routing is off)")),
        ]
    )  # fmt: skip
    _show_words(model, corpus)
    _show_sample(model, args.seed)
    _show_fact(model, corpus, *args.fact)
    _save(model, args)
    return 0


def _show_words(model: Ghost, corpus: Corpus) -> None:
    data = bytes(corpus.heldout[-1].data)
    begin = data.find(b"\n", len(data) // 2) + 1
    snippet = data[begin:].lstrip()[:SNIPPET_BYTES]
    terminal.heading("Pieces its tokenizer found in a held-out file")
    pieces = [terminal.visible(piece.decode("utf-8", "replace")) for piece in model.segment(snippet)]
    line = Text("  ")
    for i, piece in enumerate(pieces):
        line.append("\u2502" if i else "", "dim")
        line.append(piece.replace("\n", "\u21b5"), ("cyan", "yellow")[i % 2])
    terminal.out().print(line)


def _show_fact(model: Ghost, corpus: Corpus, key: str, value: str) -> None:
    from ghost_native.generate import generate_text

    def answer() -> str:
        said = generate_text(model, question, max_bytes=len(value.encode()) + 24, temperature=0, stop=b"\n")
        return terminal.visible(said).strip()

    question = f"Q: {key}? A: "
    seen = sum(bytes(document.data).count(value.encode()) for document in corpus.train)
    terminal.heading("A fact told after training, without changing a weight")
    before = answer()
    model.store_fact(key, value)
    after = answer()
    right = after == value
    terminal.rows(
        [
            ("fact", f"{key} = {value} ({value!r} occurs {terminal.plural(seen, 'time')} in the training text)"),
            ("question", question.strip()),
            ("answer before", before or "nothing"),
            (
                "answer after",
                Text(
                    f"{after or 'nothing'}, which is {'right' if right else 'wrong'}",
                    "bold green" if right else "bold red",
                ),
            ),
        ]
    )


def _show_sample(model: Ghost, seed: int) -> None:
    from ghost_native.generate import generate_text

    prompt = "def "
    text = generate_text(model, prompt, max_bytes=240, temperature=0.7, top_p=0.95, seed=seed)
    terminal.heading("A sample")
    terminal.out().print(Text.assemble((prompt, "bold"), terminal.visible(text)))


def _save(model: Ghost, args: Arguments) -> None:
    model.save(args.out)
    packed, full = args.out.stat().st_size, 4 * model.count_params()
    terminal.heading("Saved")
    terminal.rows(
        [
            ("file", str(args.out)),
            ("size", f"{terminal.size(packed)}, {full / packed:.1f} times smaller than float32 "
                     f"({terminal.size(full)})"),
            ("weights", f"{model.packed_bits_per_weight():.2f} bits each in the packed layers"),
        ]
    )  # fmt: skip
    terminal.heading("Next")
    out, question = shlex.quote(str(args.out)), shlex.quote(f"Q: {args.fact[0]}? A: ")
    for command in (
        f'ghost-native generate {out} "class " --temperature 0.7',
        f'ghost-native generate {out} {question} --temperature 0 --stop "\\n"',
        f'ghost-native inspect {out} "The quick brown fox" --html inspect.html',
        f"ghost-native eval {out} FILE...",
        "ghost-native train FOLDER --seconds 600 --out mine.safetensors",
    ):
        terminal.out().print(f"  {command}")
