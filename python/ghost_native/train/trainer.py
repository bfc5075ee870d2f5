"""The training loop: facts first, then text with facts mixed in, on a schedule tied to steps or to elapsed time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import mlx.core as mx
import numpy as np
from mlx import nn

from ghost_native.data.batches import ByteBatcher
from ghost_native.data.facts import NOT_ASKED, FactBatch, FactGenerator
from ghost_native.models.ghost import Ghost
from ghost_native.models.state import GhostState
from ghost_native.nn.fact_memory import PackedFacts
from ghost_native.train.config import TrainConfig
from ghost_native.train.objective import Objective, fact_objective, text_objective
from ghost_native.train.optimizer import Optimizer
from ghost_native.train.schedule import learning_rate

Phase = Literal["facts", "text"]

TEXT_WEIGHT = 0.3  # of plain text in fact batches; answers weigh 1 a byte, the rest of questions 0.1


@dataclass(frozen=True)
class StepReport:
    """One step of training.

    Attributes:
        step: steps done, from 1.
        progress: share of the run done, 0 to 1.
        phase: what the step trained on.
        loss: what was minimized, auxiliary losses included.
        bpb: bits per byte of the step's text; in fact steps, per answer byte.
        bytes_per_second: text bytes trained on per second of the run before this step.
        learning_rate: of this step.
        elapsed_s, remaining_s: seconds.
    """

    step: int
    progress: float
    phase: Phase
    loss: float
    bpb: float
    bytes_per_second: float
    learning_rate: float
    elapsed_s: float
    remaining_s: float


class Trainer:
    """Trains a model; iterate over :meth:`run`.

    Args:
        model: to train, in place. It must not be packed.
        batcher: text, in batches of the configuration's shape.
        config: the run.
        teacher: a model whose predictions are followed too, with `distill_weight`; typically the float twin.

    Raises:
        ValueError: the model is packed, or the batcher's shape is not the configuration's.
    """

    def __init__(
        self, model: Ghost, batcher: ByteBatcher, config: TrainConfig, *, teacher: Ghost | None = None
    ) -> None:
        if model.is_packed:
            raise ValueError("[Trainer] a packed model cannot be trained, load the one that was packed.")
        if (batcher.batch, batcher.seqlen) != (config.batch, config.seqlen):
            raise ValueError(
                f"[Trainer] the batcher does not fit the configuration, given batches of {batcher.batch} x "
                f"{batcher.seqlen}, allowed: {config.batch} x {config.seqlen}."
            )
        if batcher.run not in (None, config.reset_every):
            raise ValueError(
                f"[Trainer] the batcher does not fit the configuration, given runs of {batcher.run} windows, allowed: "
                f"reset_every = {config.reset_every}, or None."
            )
        self.model, self.batcher, self.config, self.teacher = model, batcher, config, teacher
        self.optimizer = Optimizer(model)
        self._text = nn.value_and_grad(model, self._text_loss)
        self._facts = nn.value_and_grad(model, self._fact_loss)
        self._generator = FactGenerator(config.seed)
        self._random = np.random.default_rng(config.seed)
        self._state: GhostState | None = None
        self._teacher_state: GhostState | None = None
        self._windows = 0

    # -- one step -----------------------------------------------------------------------------------------------------

    def _text_loss(
        self, tokens: mx.array, targets: mx.array, state: GhostState | None, teacher_logits: mx.array | None
    ) -> tuple[mx.array, Objective]:
        objective = text_objective(self.model, tokens, targets, state, self.config, teacher_logits)
        return objective.total, objective

    def _fact_loss(self, facts: PackedFacts, arrays: dict[str, mx.array]) -> tuple[mx.array, Objective]:
        objective = fact_objective(self.model, facts, arrays, self.config)
        return objective.total, objective

    def _text_step(self) -> tuple[Objective, dict[str, mx.array]]:
        batch = next(self.batcher)
        tokens, targets = mx.array(batch.tokens), mx.array(batch.targets)
        if self._windows % self.config.reset_every == 0:
            self._state = self._teacher_state = None
        self._windows += 1
        teacher_logits = None
        if self.teacher is not None:
            out = self.teacher.forward(tokens, self._teacher_state)
            teacher_logits, self._teacher_state = out.logits, out.state
        (_, objective), gradients = self._text(tokens, targets, self._state, teacher_logits)
        self._state = objective.state
        return objective, gradients

    def _fact_step(self) -> tuple[Objective, dict[str, mx.array]]:
        config = self.config
        # From few to many, so that the null fact's score holds at any number.
        num_facts = max(1, round(config.num_facts / self._random.choice([1, 1, 3, 8])))
        batch = self._generator.batch(config.fact_batch, config.seqlen, num_facts)
        arrays = _with_text(batch, self._random_windows(config.fact_text))
        (_, objective), gradients = self._facts(batch.pack(config.num_facts), arrays)
        return objective, gradients

    def _random_windows(self, rows: int) -> np.ndarray:
        """(rows, seqlen + 1) bytes from anywhere in the text."""
        begins = self._random.integers(0, self.batcher.num_bytes, rows)
        length = self.config.seqlen + 1
        return np.array([self.batcher.read(int(b), length) for b in begins], np.int32).reshape(rows, length)

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[StepReport]:
        """Train to the end of the schedule, reporting every step once it is known to be done.

        One step is always in flight, so a report is of the step before the one just started. Stopping the iteration
        early, by break or Ctrl-C, leaves a usable model.
        """
        before = [(layer, layer.activation) for _, layer in self.model.codebook_layers()]
        self.model.set_activation(self.config.precision)
        try:
            yield from self._steps()
        finally:
            for layer, activation in before:
                layer.activation = activation

    def _steps(self) -> Iterator[StepReport]:
        config = self.config
        begin = time.perf_counter()
        fact_steps = round(config.fact_share * config.steps) if config.steps else 0
        step = text_bytes = 0
        pending: tuple[StepReport, Objective] | None = None
        while True:
            elapsed = time.perf_counter() - begin
            total_steps = (config.steps or 0) + fact_steps
            progress = elapsed / config.seconds if config.seconds else step / total_steps
            if progress >= 1:
                break
            facts = progress < config.fact_share if config.seconds else step < fact_steps
            facts = facts or self._random.random() < config.fact_mix
            # Each phase has a whole schedule of its own.
            first = config.fact_share if config.seconds else fact_steps / total_steps
            within = progress / first if progress < first else (progress - first) / (1 - first)
            rate = learning_rate(within, config.learning_rate, warmup=config.warmup, final_rate=config.final_rate)
            objective, gradients = self._fact_step() if facts else self._text_step()
            self.optimizer.update(self.model, gradients, rate)
            mx.async_eval(objective, self.model.parameters(), self.optimizer.state)
            step += 1
            if pending is not None:
                yield self._finish(*pending)
            report = StepReport(
                step=step, progress=min(1.0, progress), phase="facts" if facts else "text", loss=0.0, bpb=0.0,
                bytes_per_second=text_bytes / max(elapsed, 1e-9), learning_rate=rate, elapsed_s=elapsed,
                remaining_s=max(0.0, elapsed / progress - elapsed) if progress > 0 else math.inf,
            )  # fmt: skip
            pending = (report, objective)
            text_bytes += 0 if facts else config.batch * config.seqlen
        if pending is not None:
            report, objective = pending
            mx.eval(self.model.parameters(), self.optimizer.state)
            yield self._finish(replace(report, progress=1.0, remaining_s=0.0), objective)

    def _finish(self, report: StepReport, objective: Objective) -> StepReport:
        """Fill in what is known once the step has been computed."""
        loss, nats = np.array(objective.total).item(), np.array(objective.nats).item()
        return replace(report, loss=loss, bpb=nats / math.log(2))


def _with_text(batch: FactBatch, text: np.ndarray) -> dict[str, mx.array]:
    """The arrays of a fact batch with rows of plain text added, on which nothing is asked."""
    shape = (len(text), text.shape[1] - 1)
    added = {
        "tokens": text,
        "weight": np.full(shape, TEXT_WEIGHT, np.float32),
        "fact": np.full(shape, NOT_ASKED, np.int32),
        "start": np.zeros(shape, np.float32),
        "mask": np.ones(shape, np.float32),
    }
    return {name: mx.array(np.concatenate([getattr(batch, name), rows])) for name, rows in added.items()}
