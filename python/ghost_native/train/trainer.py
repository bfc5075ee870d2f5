"""The training loop: facts first where wanted, then batches of a source, on a schedule of steps or of the clock."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_map

from ghost_native.data.batch import BatchSource, PreferenceBatch, TokenBatch
from ghost_native.data.facts import NOT_ASKED, FactBatch, FactGenerator
from ghost_native.models.ghost import Ghost
from ghost_native.train.average import WeightAverage
from ghost_native.train.loss_scale import LossScale
from ghost_native.train.objective import (
    Objective,
    Share,
    batch_arrays,
    fact_objective,
    language_objective,
    log_likelihood,
    preference_objective,
)
from ghost_native.train.optimizer import Optimizer
from ghost_native.train.precision import trained_in
from ghost_native.train.ranks import ALONE, Ranks, tree_digest
from ghost_native.train.run_config.train_section import WARMUP, TrainSection
from ghost_native.train.schedule import learning_rate
from ghost_native.train.traits import traits

Phase = Literal["facts", "text"]
Arrays = dict[str, mx.array]

TEXT_WEIGHT = 0.3  # of plain text in fact batches; answers weigh 1 a byte, the rest of questions 0.1


@dataclass(frozen=True)
class StepReport:
    """One step of training.

    Attributes:
        step: steps done, from 1.
        progress: share of the run done, 0 to 1.
        phase: what the step trained on.
        loss: what was minimized, auxiliary losses included.
        nats: mean cross-entropy of the step's targets; in fact steps, of answer bytes; of preferences, the loss.
        learning_rate: of this step.
        grad_norm: of the gradients before they were limited. Not finite where float16 overflowed; the weights are then
            as before.
        tokens: trained on since the beginning of the run, facts not counted.
        step_s: seconds between this report and the one before it.
        elapsed_s, remaining_s: seconds of training, earlier processes of the run counted.
    """

    step: int
    progress: float
    phase: Phase
    loss: float
    nats: float
    learning_rate: float
    grad_norm: float
    tokens: int
    step_s: float
    elapsed_s: float
    remaining_s: float

    @property
    def bpt(self) -> float:
        """Bits per token: of models that read bytes, bits per byte."""
        return self.nats / math.log(2)


@dataclass
class _Pending:
    """A step whose numbers are still being computed."""

    report: StepReport
    numbers: mx.array  # loss, nats, norm, wish to stop


class Trainer:
    """Trains a model; iterate over :meth:`run`.

    Args:
        model: to train, in place. It must not be packed.
        source: batches of ``micro_batch_size * grad_accum_steps * ranks.size`` rows, of which every process takes its
            share. The stage "dpo" wants `PreferenceBatch`es.
        config: the run.
        teacher: a model whose predictions are followed too, with `distill_weight`; typically the float twin.
        plain: batches of `fact_text` rows of text that go beside questions in fact batches; None for questions alone.
        ranks: the processes that train together.

    Raises:
        ValueError: the model is packed, the source has another number of rows, or the configuration does not fit them.
    """

    def __init__(
        self,
        model: Any,
        source: BatchSource[Any],
        config: TrainSection,
        *,
        teacher: Any = None,
        plain: BatchSource[TokenBatch] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        _check(model, source, config, ranks)
        self.model, self.source, self.config, self.teacher, self.plain, self.ranks = (
            model, source, config, teacher, plain, ranks,
        )  # fmt: skip
        self.optimizer = Optimizer(
            model,
            kind=config.optimizer,
            betas=config.betas,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            codebook_rate=config.codebook_rate,
            adam_lr_multiplier=config.adam_lr_multiplier,
        )
        self.average = WeightAverage(model, config.ema_decay) if config.ema_decay else None
        self.loss_scale = LossScale(config.loss_scale) if config.precision == "float16" else None
        self.step = self.tokens = 0
        self.elapsed_s = 0.0
        self._windows = 0
        self._carried: list[Any] = [None] * config.grad_accum_steps
        self._teacher_carried: list[Any] = [None] * config.grad_accum_steps
        self.reference = copy.deepcopy(model).freeze().eval() if config.stage == "dpo" else None
        """The model as it was at first, which preferences are measured against."""
        self._reference_digest = None if self.reference is None else tree_digest(self.reference.parameters())
        compiled = mx.compile if config.compile else lambda function, **_: function
        held = [model.state]
        self._language = compiled(nn.value_and_grad(model, self._language_loss), inputs=held, outputs=held)
        read = held + ([] if self.reference is None else [self.reference.state])
        self._preference = compiled(nn.value_and_grad(model, self._preference_loss), inputs=read, outputs=held)
        self._facts = nn.value_and_grad(model, self._fact_loss)

    # -- what a checkpoint holds --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything a step changes besides the model's weights, as a tree of arrays and plain values."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "elapsed_s": self.elapsed_s,
            "windows": self._windows,
            "carried": self._carried,
            "teacher_carried": self._teacher_carried,
            "optimizer": self.optimizer.state,
            "average": self.average.weights if self.average else None,
            "loss_scale": self.loss_scale.state() if self.loss_scale else None,
            "source": dict(self.source.state()),
            "plain": dict(self.plain.state()) if self.plain else None,
            "reference": self._reference_digest,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; the model's weights must be those of the same moment.

        Raises:
            ValueError: the state is of another configuration or other data.
        """
        for name, mine in (("average", self.average), ("loss_scale", self.loss_scale), ("plain", self.plain)):
            if (state[name] is None) != (mine is None):
                raise ValueError(f"[Trainer.restore] the state was taken with another configuration: {name} differs.")
        if len(state["carried"]) != len(self._carried):
            raise ValueError(
                f"[Trainer.restore] the state was taken with another grad_accum_steps, given {len(state['carried'])}, "
                f"allowed: {len(self._carried)}."
            )
        for name in ("m", "v", "momentum"):
            if state["optimizer"][name].keys() != self.optimizer.state[name].keys():
                raise ValueError("[Trainer.restore] the state is of another model or optimizer: its weights differ.")
        if state.get("reference", self._reference_digest) != self._reference_digest:  # older states do not say
            raise ValueError(
                "[Trainer.restore] preferences would be measured against another model than before, given "
                f"train.checkpoint_path = {self.config.checkpoint_path}, allowed: the model that the run started from."
            )
        self.source.restore(state["source"])
        if self.plain:
            self.plain.restore(state["plain"])
        self.step, self.tokens, self.elapsed_s = state["step"], state["tokens"], state["elapsed_s"]
        self._windows = state["windows"]
        self._carried, self._teacher_carried = state["carried"], state["teacher_carried"]
        self.optimizer.state = state["optimizer"]
        if self.average:
            self.average.weights = state["average"]
        if self.loss_scale:
            self.loss_scale.restore(state["loss_scale"])

    # -- losses -------------------------------------------------------------------------------------------------------

    def _language_loss(
        self, arrays: Arrays, state: Any, share: Share, teacher_logits: mx.array | None, key: mx.array, scale: mx.array
    ) -> tuple[mx.array, Objective]:
        objective = language_objective(self.model, arrays, state, self.config, share, teacher_logits, key)
        return objective.total * scale, objective

    def _preference_loss(
        self, chosen: Arrays, rejected: Arrays, share: Share, key: mx.array, scale: mx.array
    ) -> tuple[mx.array, Objective]:
        reference = [mx.stop_gradient(log_likelihood(self.reference, arrays)) for arrays in (chosen, rejected)]
        own = [log_likelihood(self.model, arrays, key) for arrays in (chosen, rejected)]
        loss, _ = preference_objective(own[0], own[1], reference[0], reference[1], self.config.dpo_beta)
        total = share.part * loss.mean()
        return total * scale, Objective(total, total, None)

    def _fact_loss(self, facts: Any, arrays: Arrays, scale: mx.array) -> tuple[mx.array, Objective]:
        objective = fact_objective(self.model, facts, arrays, self.config)
        return objective.total * scale, objective

    # -- gradients of one step ----------------------------------------------------------------------------------------

    def _text_step(self, scale: mx.array) -> tuple[mx.array, mx.array, Any]:
        """Loss, nats and gradients of the next batch, summed over this process's micro-batches."""
        config, ranks = self.config, self.ranks
        batch = next(self.source)
        if isinstance(batch, TokenBatch) and (batch.fresh or self._windows % config.reset_every == 0):
            self._start_anew()
        self._windows += 1
        rows, micro = self.source.batch, config.micro_batch_size
        each = 1.0 / max(1e-6, _total_weight(batch)) * ranks.size
        share = Share(mx.array(each), mx.array(ranks.size * micro / rows))  # arrays: a compiled step takes any value
        loss = nats = mx.array(0.0)
        gradients: Any = None
        for i in range(config.grad_accum_steps):
            begin = (ranks.rank * config.grad_accum_steps + i) * micro
            key = mx.random.key(_seed(config.seed, self.step, ranks.rank, i))
            if isinstance(batch, PreferenceBatch):
                pair = (batch_arrays(batch.chosen, begin, micro), batch_arrays(batch.rejected, begin, micro))
                (_, objective), own = self._preference(*pair, share, key, scale)
            else:
                arrays = batch_arrays(batch, begin, micro)
                teacher_logits = None
                if self.teacher is not None:
                    out = self.teacher.forward(arrays["tokens"], self._teacher_carried[i])
                    teacher_logits = out.logits
                    self._teacher_carried[i] = out.state if self._carries else None
                (_, objective), own = self._language(arrays, self._carried[i], share, teacher_logits, key, scale)
                self._carried[i] = objective.state if self._carries else None
            gradients = own if gradients is None else tree_map(mx.add, gradients, own)
            loss, nats = loss + objective.total, nats + objective.nats
            if config.grad_accum_steps > 1:
                # One micro-batch's activations at a time.
                mx.async_eval(gradients, loss, nats, self._carried, self._teacher_carried)
        return loss, nats, gradients

    def _start_anew(self) -> None:
        self._carried = [None] * self.config.grad_accum_steps
        self._teacher_carried = [None] * self.config.grad_accum_steps

    @property
    def _carries(self) -> bool:
        """Whether a window goes on from the state of the one before it."""
        return isinstance(self.model, Ghost) and self.config.stage == "pretrain"

    def _fact_step(self, scale: mx.array) -> tuple[mx.array, mx.array, Any]:
        config = self.config
        seed = (config.seed, self.step, self.ranks.rank)
        # From few to many, so that the null fact's score holds at any number.
        few = int(np.random.default_rng(seed).choice([1, 1, 3, 8]))
        generator = FactGenerator(_seed(*seed))
        batch = generator.batch(config.fact_batch, self.source.seqlen, max(1, round(config.num_facts / few)))
        arrays = _with_text(batch, next(self.plain)) if self.plain else batch.arrays()
        (_, objective), gradients = self._facts(batch.pack(config.num_facts), arrays, scale)
        return objective.total, objective.nats, gradients

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(
        self, *, stop: Callable[[], bool] = lambda: False, pause: Callable[[int], bool] = lambda step: False
    ) -> Iterator[StepReport]:
        """Train to the end of the schedule, reporting every step once it is known to be done.

        While a report is looked at, the next step is being computed already, so the model may be ahead of it by one.
        Ending the iteration early, by break or an exception, leaves a usable model. Before the first step all processes
        make sure that they begin alike.

        Args:
            stop: asked before every step; True ends the run, on all processes after the same step.
            pause: asked with the number of a step; True keeps the next step from beginning until its report has been
                looked at, so that model and :meth:`state` are exactly those after it.

        Raises:
            ValueError: another process has another configuration, other data or another checkpoint.
        """
        if self.ranks.size > 1:
            self.ranks.compare(traits(self))
        models = [self.model] if self.reference is None else [self.model, self.reference]
        with ExitStack() as held:
            for model in models:
                held.enter_context(trained_in(model, self.config.precision))
            self.model.set_gradient_checkpointing(self.config.gradient_checkpointing)
            self.model.train()
            try:
                yield from self._steps(stop, pause)
            except RuntimeError as error:
                raise self.ranks.explained(error) from error
            finally:
                self.model.set_gradient_checkpointing(False)

    def _steps(self, stop: Callable[[], bool], pause: Callable[[int], bool]) -> Iterator[StepReport]:
        self._begin = begin = time.perf_counter() - self.elapsed_s
        pending: _Pending | None = None
        last = time.perf_counter()
        while True:
            self.elapsed_s = time.perf_counter() - begin
            if self._progress() >= 1:
                break
            held = pending is not None and pause(pending.report.step)
            if held or (pending is not None and self.ranks.size > 1):
                assert pending is not None
                report, stopping = self._finish(pending, last)
                last, pending = time.perf_counter(), None
                yield report
                if stopping:
                    return
            if self.ranks.size == 1 and stop():
                break
            started = self._start(stop)
            if pending is not None:
                report, _ = self._finish(pending, last)
                last = time.perf_counter()
                yield report
            pending = started
        if pending is not None:
            mx.eval(self._all_state())
            yield self._finish(pending, last)[0]

    def _start(self, stop: Callable[[], bool]) -> _Pending:
        """Begin a step; its numbers are computed while the caller goes on."""
        config = self.config
        progress, facts_until = self._progress(), self._facts_until()
        facts = progress < facts_until
        if not facts and config.fact_mix:
            facts = bool(np.random.default_rng((config.seed, self.step, 1)).random() < config.fact_mix)
        rate = self._rate(progress, facts_until)
        scale = self.loss_scale.value if self.loss_scale else 1.0
        loss, nats, gradients = (self._fact_step if facts else self._text_step)(mx.array(scale))
        gradients = self.ranks.mean(gradients)
        norm = self.optimizer.norm(gradients) / scale
        if self.loss_scale is None or self._in_range(norm):
            self.optimizer.update(self.model, gradients, rate, norm, scale=scale)
            if self.average:
                self.average.update(self.model)
        wish = mx.array(1.0 if self.ranks.size > 1 and stop() else 0.0)
        shared = self.ranks.total(mx.stack([loss, nats, wish]))
        numbers = mx.concatenate([shared[:2] / self.ranks.size, norm[None], shared[2:]])
        mx.async_eval(numbers, self._all_state())
        self.step += 1
        self.tokens += 0 if facts else self.source.batch * self.source.seqlen
        remaining = self.elapsed_s / progress - self.elapsed_s if progress > 0 else math.inf
        return _Pending(
            StepReport(
                step=self.step, progress=min(1.0, self._progress()), phase="facts" if facts else "text", loss=0.0,
                nats=0.0, learning_rate=rate, grad_norm=0.0, tokens=self.tokens, step_s=0.0, elapsed_s=self.elapsed_s,
                remaining_s=max(0.0, remaining),
            ),
            numbers,
        )  # fmt: skip

    def _all_state(self) -> list[Any]:
        """Every array that a step changes. One not evaluated with the step would hold on to all it was made of."""
        average = self.average.weights if self.average else None
        return [self.model.parameters(), self.optimizer.state, average, self._carried, self._teacher_carried]

    def _in_range(self, norm: mx.array) -> bool:
        """Note whether float16 gradients overflowed. Waits for them."""
        assert self.loss_scale is not None
        finite = bool(mx.isfinite(norm).item())
        self.loss_scale.after(finite)
        if not finite:
            self._start_anew()  # what is carried may have overflowed as well
        return finite

    def _finish(self, pending: _Pending, last: float) -> tuple[StepReport, bool]:
        """The report with what is known once the step has been computed, and whether some process wants to stop."""
        loss, nats, norm, wish = np.array(pending.numbers).tolist()
        if self.loss_scale is None and not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"[Trainer] loss or gradients are not finite at step {pending.report.step}: loss {loss}, norm of the "
                f"gradients {norm}; go on from a checkpoint before it with a smaller train.lr"
            )
        now = time.perf_counter()
        report = replace(
            pending.report, loss=loss, nats=nats, grad_norm=norm, step_s=now - last, elapsed_s=now - self._begin
        )
        return report, wish > 0

    # -- the schedule -------------------------------------------------------------------------------------------------

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run, facts first included; None where the clock decides."""
        if self.config.total_steps is None:
            return None
        return self.config.total_steps + round(self.config.fact_share * self.config.total_steps)

    def _progress(self) -> float:
        if self.config.seconds is not None:
            return self.elapsed_s / self.config.seconds
        assert self.total_steps is not None
        return self.step / self.total_steps

    def _facts_until(self) -> float:
        """Progress at which the fact batches alone end."""
        if self.config.seconds is not None:
            return self.config.fact_share
        assert self.total_steps is not None and self.config.total_steps is not None
        return (self.total_steps - self.config.total_steps) / self.total_steps

    def _rate(self, progress: float, facts_until: float) -> float:
        """Each phase has a whole schedule of its own."""
        config = self.config
        first = progress < facts_until
        length = facts_until if first else 1 - facts_until
        within = (progress if first else progress - facts_until) / length
        if self.total_steps is not None:
            steps = self.total_steps * length
            warmup = WARMUP if config.warmup_steps is None else min(1.0, config.warmup_steps / steps)
            within = min(warmup, within + 1 / steps) if within < warmup else within  # the first step moves already
        elif config.warmup_steps is None:
            warmup = WARMUP
        else:
            rate = learning_rate(within, config.lr, config.final_lr, 0.0)
            return min(rate, config.lr * (self.step + 1) / config.warmup_steps) if config.warmup_steps else rate
        return learning_rate(within, config.lr, config.final_lr, warmup)


def _check(model: Any, source: BatchSource[Any], config: TrainSection, ranks: Ranks) -> None:
    if model.is_packed:
        raise ValueError("[Trainer] a packed model cannot be trained, load the one that was packed.")
    rows = config.micro_batch_size * config.grad_accum_steps * ranks.size
    if source.batch != rows:
        raise ValueError(
            f"[Trainer] the source does not fit the configuration, given batches of {source.batch} rows, allowed: "
            f"micro_batch_size * grad_accum_steps * processes = {rows}."
        )
    run = getattr(source, "run", None)
    if isinstance(model, Ghost) and run is not None and run != config.reset_every:
        raise ValueError(
            f"[Trainer] the source does not fit the configuration, given runs of {run} windows, allowed: reset_every = "
            f"{config.reset_every}."
        )
    if config.seconds is not None and ranks.size > 1:
        raise ValueError("[Trainer] processes cannot agree on the clock, given seconds, allowed: total_steps.")
    if config.compile and isinstance(model, Ghost):
        raise ValueError(
            "[Trainer] compile is for transformers: the shapes of Ghost's carried state change every step."
        )


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _total_weight(batch: TokenBatch | PreferenceBatch) -> float:
    if isinstance(batch, PreferenceBatch):
        return float(batch.chosen.tokens.shape[0])
    return float(batch.targets.size if batch.weight is None else batch.weight.sum())


def _with_text(batch: FactBatch, text: TokenBatch) -> Arrays:
    """The arrays of a fact batch with rows of plain text added, on which nothing is asked."""
    tokens = np.concatenate([text.tokens, text.targets[:, -1:]], axis=1)
    shape = text.targets.shape
    added = {
        "tokens": tokens,
        "weight": np.full(shape, TEXT_WEIGHT, np.float32),
        "fact": np.full(shape, NOT_ASKED, np.int32),
        "start": np.zeros(shape, np.float32),
        "mask": np.ones(shape, np.float32),
    }
    return {name: mx.array(np.concatenate([getattr(batch, name), rows])) for name, rows in added.items()}
