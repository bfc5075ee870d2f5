"""What has to be alike in all processes of a run before its first step."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ghost_native.train.ranks import tree_digest

if TYPE_CHECKING:
    from ghost_native.train.trainer import Trainer

# Where files are may differ between hosts; what is in them is compared.
_PLACES = {"save_dir", "log_path", "checkpoint_path", "teacher_path", "tokenizer_path"}


def traits(trainer: Trainer) -> dict[str, str]:
    """By name: the keys of ``model`` and ``train`` but for places, the data as its source and position say, the weights
    of all models, and what a step changes: state of the optimizer, average and loss scale.

    The recurrent state carried from window to window is each process's own, and the clock's time is nobody's.
    """
    state = trainer.state()
    found = {f"train.{key}": repr(value) for key, value in asdict(trainer.config).items() if key not in _PLACES}
    found |= {f"model.{key}": repr(value) for key, value in trainer.model.config.to_dict().items()}
    found |= {"data.seq_len": str(trainer.source.seqlen), "step": str(trainer.step)}
    models = {"weights": trainer.model, "weights of the teacher": trainer.teacher,
              "weights of the reference": trainer.reference}  # fmt: skip
    found |= {name: tree_digest(model.parameters()) for name, model in models.items() if model is not None}
    for name, key in (("state of the optimizer", "optimizer"), ("averaged weights", "average")):
        found[name] = tree_digest(state[key])
    for name, key in (("data", "source"), ("text beside facts", "plain"), ("loss scale", "loss_scale")):
        found[name] = tree_digest(json.dumps(state[key], sort_keys=True))
    return found
