"""How training looks: a progress bar on a terminal, elsewhere a line at every tenth of the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
from rich.progress import ProgressColumn, Task
from rich.text import Text

from ghost_native.cli import terminal
from ghost_native.cli.bar import Barred
from ghost_native.train.run import Watcher

if TYPE_CHECKING:
    from ghost_native.train import StepReport
    from ghost_native.train.trainer import Phase

_SMOOTHING = 0.9
_WIDE, _NARROW = 112, 94  # columns for a long bar, and below which there is no room for the score as well
_WORDS = {"facts": "learning to use facts", "text": "learning text"}


class _Left(ProgressColumn):
    """Time left by the trainer's own schedule."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left", math.inf)
        return Text("" if math.isinf(left) else f"{int(left) // 60}:{int(left) % 60:02} left", "dim")


class Display(Barred, Watcher):
    """Shows a run: loss, bits, the last score, what is read a second, and the most memory that MLX held.

    Args:
        unit: what is read, "B" or "tokens".
        score_name: what held-out scores are called.
        quiet: show nothing but warnings.
    """

    def __init__(self, unit: str = "B", score_name: str = "held-out", *, quiet: bool = False) -> None:
        self.console = terminal.err()
        self.unit, self.score_name, self.quiet = unit, score_name, quiet
        self.bpb = math.nan
        self.score = math.nan
        self._loss: dict[Phase, float] = {"facts": math.nan, "text": math.nan}
        self._phase: Phase = "facts"
        self._next_line = 0.0
        self._narrow = self.console.is_terminal and self.console.width < _NARROW
        wide = self.console.width >= _WIDE
        super().__init__(
            self.console, "starting", _Left(), wanted=not quiet, width=24 if wide else 10, total=1.0, left=math.inf
        )

    def started(self, step: int) -> None:
        if step and not self.quiet:
            self.console.print(f"going on after step {step}", style="dim")

    def stepped(self, report: StepReport) -> None:
        self._loss[report.phase] = _smooth(self._loss[report.phase], report.loss)
        if report.phase == "text":
            self._phase = "text"  # fact batches mixed in later are not shown
            self.bpb = _smooth(self.bpb, report.bpt)
        numbers = f"loss {self._loss[self._phase]:.3f}"
        if self._phase == "text":
            numbers += f" {'bpb' if self.unit == 'B' else 'bits/token'} {self.bpb:.3f}"
        if not math.isnan(self.score) and not self._narrow:
            numbers += f" {self.score_name} {self.score:.3f}"
        if self._phase == "text" and report.elapsed_s > 0:
            numbers += f" {self.rate(report.tokens / report.elapsed_s)}"
        numbers += f" {terminal.size(mx.get_peak_memory())}"
        if self._bar is not None:
            what = _WORDS[self._phase] if self._phase == "facts" else f"step {report.step}"
            self._bar.update(
                self._task, description=what, completed=report.progress, numbers=numbers, left=report.remaining_s
            )
        elif not self.quiet and (report.progress >= self._next_line or report.progress >= 1):
            self._next_line = report.progress + 0.1
            left = "" if math.isinf(report.remaining_s) else f"  {terminal.duration(report.remaining_s)} left"
            self.console.print(f"{report.progress:4.0%}  {_WORDS[self._phase]}  step {report.step}  {numbers}{left}")

    def rate(self, per_second: float) -> str:
        return terminal.rate(per_second) if self.unit == "B" else f"{per_second:,.0f} tokens/s"

    def scored(self, step: int, bpb: float, best: bool) -> None:
        self.score = bpb
        if not self.quiet:
            self.console.print(f"step {step}: {self.score_name} {bpb:.3f}{', the best so far' if best else ''}")

    def sampled(self, step: int, prompt: str, text: str) -> None:
        self.console.print(Text.assemble((f"step {step}: {terminal.visible(prompt)}", "bold"), terminal.visible(text)))

    def saved(self, step: int, path: Path) -> None:
        if not self.quiet:
            self.console.print(f"step {step}: saved {path}", style="dim")

    def warned(self, message: str) -> None:
        self.console.print(f"warning: {message}", style="yellow")


def _smooth(before: float, now: float) -> float:
    return now if math.isnan(before) or math.isnan(now) else _SMOOTHING * before + (1 - _SMOOTHING) * now
