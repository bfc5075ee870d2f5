"""Named starting points of a run: values that files and later changes override."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ghost_native.models import config
from ghost_native.models.transformer_config import TRANSFORMER_PRESETS

ModelType = Literal["ghost", "transformer"]

# What differs for Ghost from the defaults of the sections. The rate suits AdamW on 2-bit weights of width 256.
GHOST_DEFAULTS: Mapping[str, Any] = {
    "data.seq_len": 256,
    "train.total_steps": 300,
    "train.micro_batch_size": 16,
    "train.optimizer": "adamw",
    "train.lr": 4e-3,
    "train.weight_decay": 0.01,
    "train.betas": (0.9, 0.99),
    "train.precision": "bfloat16",
    "train.log_interval": 10,
    "train.eval_interval": 100,
    "train.ckpt_interval": 100,
}

# Sequence length, sequences side by side, steps and rate; wider models want a lower rate.
_GHOST_RUNS = {
    "quick_test": (64, 16, 100, 6e-3),
    "production": (256, 16, 500, 4e-3),
    "maximum": (512, 8, 2000, 2e-3),
    "speed": (64, 32, 100, 6e-3),
    "phone": (32, 4, 300, 6e-3),
}
_RUN_KEYS = ("data.seq_len", "train.micro_batch_size", "train.total_steps", "train.lr")


def _model(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"model.{name}": value for name, value in values.items()}


PRESETS: Mapping[str, Mapping[str, Any]] = {
    **{name: {"model.type": "ghost", **_model(config.PRESETS[name]), **dict(zip(_RUN_KEYS, values, strict=True))}
       for name, values in _GHOST_RUNS.items()},
    **{name: {"model.type": "transformer", **_model(values)} for name, values in TRANSFORMER_PRESETS.items()},
}  # fmt: skip
