"""Training with a progress display and held-out checks on the way, shared by `quickstart` and `train`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.text import Text

from ghost_native.cli import terminal
from ghost_native.cli.interrupt import Interrupt

if TYPE_CHECKING:
    from ghost_native.data import Document
    from ghost_native.models import Ghost
    from ghost_native.train import StepReport, TrainConfig, Trainer
    from ghost_native.train.trainer import Phase

CHECKS = (0.1, 0.3, 0.5, 0.7, 0.9)  # shares of the training on text after which held-out text is scored
CHECK_BYTES = 24_000
CHECK_SHARE = 0.02  # of a run given in seconds; a machine on which a check takes longer gets no more of them
_SMOOTHING = 0.9


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `interrupted` when Ctrl-C ended it; the weights are usable all the same."""

    steps: int
    seconds: float
    bytes_per_second: float
    interrupted: bool


class _Left(ProgressColumn):
    """Time left by the trainer's own schedule."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left", math.inf)
        return Text("" if math.isinf(left) else f"{int(left) // 60}:{int(left) % 60:02} left", "dim")


class Display:
    """A progress bar on a terminal; elsewhere a line at every tenth of the run."""

    def __init__(self) -> None:
        self.console = terminal.err()
        self.heldout = math.nan
        self._next_line = 0.0
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24 if self.console.width >= 100 else 10),
                TaskProgressColumn(),
                TextColumn("{task.fields[numbers]}"),
                _Left(),
                console=self.console,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("starting", total=1.0, numbers="", left=math.inf)

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, report: StepReport, phase: Phase, loss: float, bpb: float) -> None:
        numbers = f"loss {loss:.3f}"
        if phase == "text":
            numbers += f" bpb {bpb:.3f}"
        if not math.isnan(self.heldout):
            numbers += f" held-out {self.heldout:.3f}"
        if phase == "text":
            numbers += f" {terminal.rate(report.bytes_per_second)}"
        if self._bar is not None:
            self._bar.update(
                self._task, description=phase, completed=report.progress, numbers=numbers, left=report.remaining_s
            )
        elif report.progress >= self._next_line:
            self._next_line = report.progress + 0.1
            left = "" if math.isinf(report.remaining_s) else f"  {terminal.duration(report.remaining_s)} left"
            what = "learning to use facts" if phase == "facts" else "learning text"
            self.console.print(f"{report.progress:4.0%}  {what}  step {report.step}  {numbers}{left}")


def check_documents(documents: Sequence[Document], limit: int = CHECK_BYTES) -> list[Document]:
    """The beginnings of held-out documents, an equal part of each up to `limit` bytes in all: quick to score."""
    from ghost_native.data import Document

    each = max(512, limit // max(1, len(documents)))
    chosen: list[Document] = []
    left = limit
    for document in documents:
        if left <= 0:
            break
        part = document.data[: min(each, left)]
        chosen.append(Document(document.name, part))
        left -= len(part)
    return chosen


def run_training(model: Ghost, trainer: Trainer, heldout: Sequence[Document]) -> Outcome:
    """Train to the end of the schedule or to Ctrl-C, whichever comes first.

    The checks on held-out text count as training time, so that a run given in seconds ends on time.
    """
    from ghost_native.train import evaluate

    sample = check_documents(heldout)
    checks = _check_points(trainer.config) if sample else []
    begin = time.perf_counter()
    phase: Phase = "facts"
    loss: dict[Phase, float] = {"facts": math.nan, "text": math.nan}
    bpb, steps, rate = math.nan, 0, 0.0
    with Interrupt() as interrupt, Display() as display:
        for report in trainer.run():
            loss[report.phase] = _smooth(loss[report.phase], report.loss)
            if report.phase == "text":
                phase = "text"  # fact batches mixed in later are not shown
                bpb = _smooth(bpb, report.bpb)
            steps, rate = report.step, report.bytes_per_second
            if checks and report.progress >= checks[0]:
                checks = [point for point in checks if point > report.progress]
                check = evaluate(model, sample)
                display.heldout = check.bpb
                if trainer.config.seconds and check.seconds > CHECK_SHARE * trainer.config.seconds:
                    checks = []
            display.show(report, phase, loss[phase], bpb)
            if interrupt.requested:
                break
        interrupted = interrupt.requested
    return Outcome(steps, time.perf_counter() - begin, rate, interrupted)


def _check_points(config: TrainConfig) -> list[float]:
    """Points of the whole run, the fact phase in front counted."""
    first = config.fact_share if config.seconds else config.fact_share / (1 + config.fact_share)
    return [first + (1 - first) * point for point in CHECKS]


def _smooth(before: float, now: float) -> float:
    return now if math.isnan(before) else _SMOOTHING * before + (1 - _SMOOTHING) * now
