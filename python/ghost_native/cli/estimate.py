"""`ghost-native estimate`: what a configuration will take."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ghost_native.cli import configuration, terminal
from ghost_native.cli.parser import Arguments, Parser

if TYPE_CHECKING:
    from ghost_native.train.estimate import Estimate
    from ghost_native.train.run_config import RunConfig

DESCRIPTION = """\
Say what a configuration will take without training: parameters, arithmetic, memory of one process (within a fifth of
the measured peak), disk, and the time at a third of what this machine computes at most, which is measured."""

EXAMPLES = """\
ghost-native estimate configs/production.yaml
ghost-native estimate --preset medium --batch 4 --set train.gradient_checkpointing=true
ghost-native estimate --preset production --json
"""


def add_arguments(parser: Parser) -> None:
    configuration.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: Arguments) -> int:
    from ghost_native.train.estimate import estimate

    config = configuration.read(args)
    found = estimate(config)
    if args.json:
        print(json.dumps({**asdict(found), "peak_bytes": found.peak_bytes}))
        return 0
    show(config, found)
    return 0


def show(config: RunConfig, found: Estimate) -> None:
    """The estimate as a table."""
    parts = ", ".join(f"{name} {terminal.size(value)}" for name, value in found.memory.items())
    length = terminal.duration(found.seconds) if found.seconds is not None else "as configured"
    unit = "token" if config.train.tokenizer_path else "byte"
    terminal.rows(
        [
            ("parameters", f"{found.parameters:,}"),
            ("arithmetic", f"{found.flops_per_token / 1e6:.1f} MFLOP a {unit}, "
                           f"{found.tokens_per_step * found.flops_per_token / 1e9:.1f} GFLOP a step"),
            ("memory", f"{terminal.size(found.peak_bytes)} at most: {parts}"),
            ("disk", f"{terminal.size(found.checkpoint_bytes)} a checkpoint, {terminal.size(found.disk_bytes)} in all"),
            ("time", f"{1e3 * found.seconds_per_step:.0f} ms a step, {length} in all"),
        ]
    )  # fmt: skip
