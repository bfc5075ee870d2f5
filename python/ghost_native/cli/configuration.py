"""What `train`, `verify` and `estimate` share: a configuration out of a file, a preset and options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_native.cli import checkpoints
from ghost_native.cli.errors import CommandError, UsageError
from ghost_native.cli.parser import Arguments, Parser, number

if TYPE_CHECKING:
    from ghost_native.train.run_config import RunConfig

ENDINGS = (".yaml", ".yml")
DEFAULT_PRESET = "quick_test"
TRANSFORMER_PRESET = "tiny"  # of what is trained on with --init, where no configuration says how
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
    """The options that make a configuration."""
    parser.add_argument("inputs", nargs="*", metavar="CONFIG.yaml|PATH",
                        help="a configuration (docs/configuration.md explains all keys), files or folders")  # fmt: skip
    parser.add_argument("--preset", metavar="NAME",
                        help="start from speed, production, phone, quick_test or maximum (Ghost), or from tiny, small, "
                        f"medium or large (transformer); {DEFAULT_PRESET} without a configuration file")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
                        help="change any key, such as train.lr=1e-3; may be given several times")  # fmt: skip
    short = parser.add_argument_group("short for keys of the configuration")
    short.add_argument("--save-dir", metavar="FOLDER",
                       help="checkpoints and logs (default: as configured, or beside --out)")  # fmt: skip
    short.add_argument("--dim", type=number(int, 16), metavar="N", help="width of a Ghost, a multiple of 16")
    short.add_argument("--layers", type=number(int, 1), metavar="N", help="its number of layers")
    short.add_argument("--init", metavar="CHECKPOINT", help=f"start from this model: {checkpoints.WHICH}")
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


def read(args: Arguments) -> RunConfig:
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
    out: Path | None = getattr(args, "out", None)
    if not files and "train.save_dir" not in values and out is not None:
        values["train.save_dir"] = str(out.with_name(f"{out.stem}-run"))
    preset = args.preset or (None if files else DEFAULT_PRESET)
    if args.init is not None:
        if args.dim is not None or args.layers is not None:
            raise UsageError("--init brings its own size; leave out --dim and --layers")
        brought = _brought_by(args.init, files[0] if files else None)
        if not files and args.preset is None and brought["model.type"] == "transformer":
            preset = TRANSFORMER_PRESET
        values = brought | values
    return RunConfig.load(files[0] if files else None, preset=preset, values=values, changes=args.changes)


def _heldout(text: str | None) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        return {"data.heldout": float(text)}
    except ValueError:
        return {"data.heldout_paths": (text,)}


def _brought_by(path: str, file: str | None) -> dict[str, Any]:
    """The model's configuration, tokenizer and length of texts, so that nothing has to be said twice.

    What the file gives itself is left to it: where that is not the model's, it is an error to be told later.
    """
    from ghost_native.models import Ghost, load_model
    from ghost_native.train.run_config.yaml_file import read_file
    from ghost_native.train.saved import model_file, tokenizer_file

    model = load_model(model_file(path))
    if model.is_packed:
        raise CommandError(f"{path} is packed to 2 bits, which cannot be trained; use one saved without --pack")
    kind = "ghost" if isinstance(model, Ghost) else "transformer"
    brought: dict[str, Any] = {f"model.{name}": value for name, value in model.config.to_dict().items()}
    if not isinstance(model, Ghost):
        brought["data.seq_len"] = model.context
        if (tokenizer := tokenizer_file(path)) is not None:
            brought["train.tokenizer_path"] = str(tokenizer)
    stated = read_file(Path(file).read_text(encoding="utf-8"), file) if file else {}
    if "model.type" in stated and stated["model.type"].value != kind:
        raise CommandError(f"{path} is a {kind}, which {file} does not describe: model.type is not {kind} there")
    return {"model.type": kind, **{key: value for key, value in brought.items() if key not in stated}}
