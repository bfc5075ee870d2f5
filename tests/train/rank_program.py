"""What each process of the tests of `Ranks` runs: `python -m tests.train.rank_program FOLDER [OPTIONS AS JSON]`."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import mlx.core as mx

from ghost_native.data.batches import ByteBatcher
from ghost_native.train import StepReport, Trainer
from ghost_native.train.ranks import Ranks
from ghost_native.train.run import Run, Watcher
from tests.train.runs import TEXT, section, tiny, weights


class Witness(Watcher):
    """Notes losses; of the second process ends it after a step, with no way to say anything."""

    def __init__(self, die_after: int) -> None:
        self.die_after, self.losses = die_after, []

    def stepped(self, report: StepReport) -> None:
        self.losses.append(report.loss)
        if report.step == self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)


def main(
    folder: str, *, die_after: int = 0, resume: bool = False, shift: float = 0.0, data_seed: int = 1, **changes: Any
) -> None:
    """Train.

    Args:
        die_after: of the second process, 0 for never.
        resume: go on from the newest checkpoint.
        shift: added to some weights.
        data_seed: order of the data.
        changes: to the configuration.
    """
    ranks = Ranks.found()
    ranks.end_with_a_lost_peer()
    model = tiny()
    model.head.weight = model.head.weight + shift
    values = {"micro_batch_size": 4 // ranks.size, "total_steps": 5, "ckpt_interval": 1, "save_dir": folder, **changes}
    config, witness = section(**values), Witness(die_after if ranks.rank == 1 else 0)
    trainer = Trainer(model, ByteBatcher(TEXT, 4, 32, seed=data_seed), config, ranks=ranks)
    run = Run(trainer, config, watcher=witness)
    begun = run.resume() if resume else 0
    run.train()
    if ranks.first:
        mx.savez(f"{folder}/end.npz", losses=mx.array(witness.losses), **weights(model))
    print(f"rank {ranks.rank} of {ranks.size} done from {begun}", flush=True)


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    options = json.loads(sys.argv[2])
    second = options.pop("second", {})  # what is otherwise for the second process
    main(sys.argv[1], **options, **(second if os.environ.get("MLX_RANK") == "1" else {}))
