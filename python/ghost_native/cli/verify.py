"""`ghost-native verify`: everything a run needs, checked before it begins."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from ghost_native.cli import blas, configuration, errors, terminal
from ghost_native.cli.parser import Arguments, Parser

if TYPE_CHECKING:
    from ghost_native.train.run_config import RunConfig

DESCRIPTION = """\
Check that a configuration can be trained here: its keys and how they fit together, the data down to a first batch, the
tokenizer, the model it starts from, a teacher, the folder it writes to and that nobody else does, disk and memory. One
line a check; the exit code is 1 if one fails."""

EXAMPLES = """\
ghost-native verify configs/production.yaml
ghost-native verify texts/ --preset production --save-dir runs/one
"""

MARGIN = 0.9  # of the memory that is left may be planned with

Check = Callable[["RunConfig"], str]


def add_arguments(parser: Parser) -> None:
    configuration.add_arguments(parser)


def run(args: Arguments) -> int:
    used = blas.prepare()
    config = configuration.read(args)
    _line(True, "configuration", f"{config.model_type}, stage {config.train.stage}")
    for remark in config.remarks():
        terminal.remark(remark)
    failed: list[str] = []
    for name, check in CHECKS.items():
        if (name == "data" and "memory" in failed) or not _passes(name, check, config):
            failed.append(name)
            if name == "teacher":  # said once; disk and memory are checked without it
                config = replace(config, train=replace(config.train, teacher_path=None))
    terminal.remark(used.line())
    terminal.out().print("ready to train" if not failed else f"{terminal.plural(len(failed), 'check')} failed")
    return 1 if failed else 0


def _passes(name: str, check: Check, config: RunConfig) -> bool:
    try:
        with terminal.working(name):
            said = check(config)
    except (ValueError, OSError, ImportError) as error:
        _line(False, name, errors.describe(error))
        return False
    _line(True, name, said)
    return True


def _line(good: bool, name: str, said: str) -> None:
    mark = ("\u2713", "green") if good else ("\u2717", "bold red")
    terminal.out().print(Text.assemble("  ", mark, f" {name:<14} ", said))


def _model(config: RunConfig) -> str:
    from ghost_native.train.assemble import build_model

    model = build_model(config)
    start = f", from {config.train.checkpoint_path}" if config.train.checkpoint_path else ", fresh weights"
    return f"{model.count_params():,} parameters{start}"


def _teacher(config: RunConfig) -> str:
    from ghost_native.train.assemble import build_teacher

    teacher = build_teacher(config)
    if teacher is None:
        return "none"
    return f"{teacher.count_params():,} parameters, from {config.train.teacher_path}"


def _tokenizer(config: RunConfig) -> str:
    from ghost_native.train.assemble import build_tokenizer

    tokenizer = build_tokenizer(config)
    return f"{tokenizer.kind}, {tokenizer.vocab_size} tokens"


def _data(config: RunConfig) -> str:
    from ghost_native.data.batch import PreferenceBatch
    from ghost_native.train.assemble import build_data, build_tokenizer

    data = build_data(config, build_tokenizer(config))
    batch = next(data.source)
    side = batch.chosen if isinstance(batch, PreferenceBatch) else batch
    skipped = f", {terminal.plural(len(data.skipped), 'file')} skipped" if data.skipped else ""
    return f"{data.describe}{skipped}; a batch of {side.tokens.shape[0]} x {side.tokens.shape[1]}"


def _folder(config: RunConfig) -> str:
    from ghost_native.train.folder_lock import check_free

    folder = Path(config.train.save_dir)
    place = _existing(folder)
    check_free(folder)
    if config.train.log_path:
        check_free(config.train.log_path, "train.log_path")
    with tempfile.NamedTemporaryFile(dir=place):  # only writing tells whether writing works
        pass
    from ghost_native.train.checkpoint import CheckpointFolder

    checkpoints = CheckpointFolder(folder)
    held = checkpoints.holds()
    if checkpoints.exported and not checkpoints.steps():
        raise OSError(f"{folder} holds {held}, which no run replaces; set train.save_dir elsewhere")
    return f"{folder} can be written to" + (f"; it holds {held}" if held else "")


def _disk(config: RunConfig) -> str:
    from ghost_native.train.estimate import estimate

    needed = estimate(config, peak_flops=1.0).disk_bytes
    free = shutil.disk_usage(_existing(Path(config.train.save_dir))).free
    if needed > free:
        raise OSError(
            f"{terminal.size(needed)} for {config.train.ckpt_keep + 2} checkpoints, {terminal.size(free)} are free; "
            "set train.save_dir elsewhere or lower train.ckpt_keep"
        )
    return f"{terminal.size(needed)} for checkpoints, {terminal.size(free)} are free"


def _memory(config: RunConfig) -> str:
    from ghost_native.train.estimate import estimate
    from ghost_native.train.memory import memory_use, total_memory

    needed = estimate(config, peak_flops=1.0).peak_bytes
    available = memory_use().available or total_memory()
    if needed > MARGIN * available:
        raise OSError(
            f"about {terminal.size(needed)}, {terminal.size(available)} are left; lower train.micro_batch_size (and "
            "raise train.grad_accum_steps) or data.seq_len, or set train.gradient_checkpointing"
        )
    return f"about {terminal.size(needed)}, {terminal.size(available)} are left"


def _logs(config: RunConfig) -> str:
    import importlib.util

    if importlib.util.find_spec("tensorboardX") is None:
        return "JSON lines; no TensorBoard events without pip install 'ghost-native[train]'"
    return "JSON lines and TensorBoard events"


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return next(folder for folder in _upwards(path.absolute()) if folder.is_dir())


def _upwards(path: Path) -> Iterator[Path]:
    yield path
    yield from path.parents


# In this order: data are not tried when a batch of them would not fit.
CHECKS: dict[str, Check] = {
    "model": _model,
    "teacher": _teacher,
    "tokenizer": _tokenizer,
    "folder": _folder,
    "disk": _disk,
    "memory": _memory,
    "logs": _logs,
    "data": _data,
}
