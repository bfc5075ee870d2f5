"""What each process of the tests of `Ranks` runs: `python -m tests.train.rank_program FILE [STEP TO DIE AFTER]`."""

from __future__ import annotations

import os
import signal
import sys

import mlx.core as mx

from ghost_native.data.batches import ByteBatcher
from ghost_native.train import Trainer
from ghost_native.train.ranks import Ranks
from tests.train.runs import TEXT, section, tiny, weights


def main(path: str, die_after: int = 0) -> None:
    ranks = Ranks.found()
    ranks.end_with_a_lost_peer()
    model = tiny()
    config = section(micro_batch_size=4 // ranks.size, total_steps=5)
    made = Trainer(model, ByteBatcher(TEXT, 4, 32, seed=1), config, ranks=ranks)
    losses = []
    for report in made.run():
        losses.append(report.loss)
        if report.step == die_after and ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    if ranks.first:
        mx.savez(path, losses=mx.array(losses), **weights(model))
    print(f"rank {ranks.rank} of {ranks.size} done", flush=True)


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    main(sys.argv[1], *map(int, sys.argv[2:]))
