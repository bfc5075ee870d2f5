"""Training without a folder of checkpoints, as `quickstart` does: the bar, and held-out checks on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghost_native.cli.display import Display
from ghost_native.cli.interrupt import Interrupt

if TYPE_CHECKING:
    from ghost_native.data import Document
    from ghost_native.train import Trainer, TrainSection

CHECKS = (0.2, 0.5, 0.8)  # shares of the training on text after which held-out text is scored
CHECK_SHARE = 0.02  # of a run given in seconds; a machine on which a check takes longer gets no more of them


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `interrupted` when Ctrl-C ended it; the weights are usable all the same."""

    steps: int
    seconds: float
    bytes_per_second: float
    interrupted: bool


def run_training(model: Any, trainer: Trainer, heldout: Sequence[Document]) -> Outcome:
    """Train to the end of the schedule or to Ctrl-C, whichever comes first.

    The checks on held-out text count as training time, so that a run given in seconds ends on time.
    """
    from ghost_native.train import evaluate
    from ghost_native.train.assemble import check_documents

    sample = check_documents(list(heldout))
    checks = _check_points(trainer.config) if sample else []
    begin = time.perf_counter()
    with Interrupt() as interrupt, Display() as display:
        for report in trainer.run(stop=lambda: interrupt.requested):
            if checks and report.progress >= checks[0]:
                checks = [point for point in checks if point > report.progress]
                check = evaluate(model, sample)
                display.score = check.bpb
                if trainer.config.seconds and check.seconds > CHECK_SHARE * trainer.config.seconds:
                    checks = []
            display.stepped(report)
    seconds = time.perf_counter() - begin
    return Outcome(trainer.step, seconds, trainer.tokens / max(seconds, 1e-9), interrupt.requested)


def _check_points(config: TrainSection) -> list[float]:
    """Points of the whole run, the fact phase in front counted."""
    first = config.fact_share if config.seconds else config.fact_share / (1 + config.fact_share)
    return [first + (1 - first) * point for point in CHECKS]
