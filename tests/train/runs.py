"""Tiny runs that the tests of training share."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ghost_native.data.batches import ByteBatcher
from ghost_native.data.corpora import Document
from ghost_native.models import Ghost, GhostConfig
from ghost_native.train import StepReport, Trainer, TrainSection

TEXT = [Document("fox", b"the quick brown fox jumps over the lazy dog. " * 60), Document("abc", b"abcdefgh" * 150)]
SEQLEN = 32


def tiny(**changes: Any) -> Ghost:
    return Ghost(GhostConfig(**{"dim": 32, "num_layers": 2, "stride": 16, **changes}), seed=0)


def section(**changes: Any) -> TrainSection:
    values = {"micro_batch_size": 4, "total_steps": 4, "lr": 5e-3, "optimizer": "adamw", "seed": 1, **changes}
    if "seconds" in values:
        values["total_steps"] = None
    return TrainSection(**values)


def trainer(model: Any, config: TrainSection, *, seqlen: int = SEQLEN, **more: Any) -> Trainer:
    rows = config.micro_batch_size * config.grad_accum_steps
    plain = ByteBatcher(TEXT, config.fact_text, seqlen, 7, run=1) if config.fact_text else None
    return Trainer(model, ByteBatcher(TEXT, rows, seqlen, seed=1), config, plain=plain, **more)


def train(model: Any, *, seqlen: int = SEQLEN, **changes: Any) -> list[StepReport]:
    return list(trainer(model, section(**changes), seqlen=seqlen).run())


def weights(model: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def same_weights(a: Any, b: Any) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(mx.array_equal(first[name], second[name]) for name in first)
