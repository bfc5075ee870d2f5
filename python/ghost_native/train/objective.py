"""What training minimizes: the next token, Ghost's own predictions, the use of facts, preferences."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from ghost_native import ops
from ghost_native.data.batch import TokenBatch
from ghost_native.models.ghost import Forward, Ghost
from ghost_native.nn.fact_memory import PackedFacts
from ghost_native.train.run_config.train_section import TrainSection


class Objective(NamedTuple):
    """Of one micro-batch: its shares of what is minimized and of the mean cross-entropy, which add up over the batch.

    state continues the text.
    """

    total: mx.array
    nats: mx.array
    state: Any


class Share(NamedTuple):
    """What a micro-batch is of the whole batch: `each` is how much one target of weight 1 counts, `part` its rows."""

    each: mx.array | float
    part: mx.array | float


def batch_arrays(batch: TokenBatch, begin: int = 0, rows: int | None = None) -> dict[str, mx.array]:
    """`rows` of a batch from `begin` on, None for all: tokens, targets and weight as far as it has them."""
    named = {"tokens": batch.tokens, "targets": batch.targets, "weight": batch.weight}
    end = None if rows is None else begin + rows
    return {name: mx.array(x[begin:end]) for name, x in named.items() if x is not None}


def language_objective(
    model: Any,
    arrays: dict[str, mx.array],
    state: Any,
    config: TrainSection,
    share: Share,
    teacher_logits: mx.array | None = None,
    key: mx.array | None = None,
) -> Objective:
    """The next token. Arrays: tokens and targets (batch, seqlen), and weight (batch, seqlen) where targets differ.

    What has no weight, such as padding and prompts, moves nothing, neither in Ghost's own predictions nor a teacher's.
    """
    ghost = isinstance(model, Ghost)
    out = model.forward(arrays["tokens"], state) if ghost else model.forward(arrays["tokens"], state, key=key)
    weight = arrays.get("weight")
    nats = share.each * _weighted(ops.cross_entropy(out.logits, arrays["targets"]), weight).sum()
    total = nats
    if ghost:
        total = total + _auxiliary(model, out, arrays["targets"], weight, config, share)
    if teacher_logits is not None:
        apart = _weighted(divergences(out.logits, teacher_logits), weight).sum()
        total = total + config.distill_weight * share.each * apart
    return Objective(total, nats, out.state)


def text_objective(
    model: Any, tokens: mx.array, targets: mx.array, state: Any, config: TrainSection, key: mx.array | None = None
) -> Objective:
    """`language_objective` of a whole batch in which all targets (batch, seqlen) count alike."""
    share = Share(1.0 / targets.size, 1.0)
    return language_objective(model, {"tokens": tokens, "targets": targets}, state, config, share, key=key)


def fact_objective(model: Ghost, facts: PackedFacts, arrays: dict[str, mx.array], config: TrainSection) -> Objective:
    """On questions about fresh facts: arrays as in `FactBatch.arrays`; nats is the mean over answer bytes."""
    tokens, weight = arrays["tokens"], arrays["weight"]
    out = model.forward(tokens[:, :-1], table=model.memory.encode(facts))
    assert out.address is not None
    nats = ops.cross_entropy(out.logits, tokens[:, 1:])
    mean = (nats * weight).sum() / mx.maximum(weight.sum(), 1e-6)
    addressing = model.memory.loss(out.address, arrays["fact"], arrays["start"], arrays["mask"])
    answers = (weight == 1).astype(mx.float32)
    answer_nats = (nats * answers).sum() / mx.maximum(answers.sum(), 1.0)
    return Objective(mean + config.fact_weight * addressing, answer_nats, out.state)


def log_likelihood(model: Any, arrays: dict[str, mx.array], key: mx.array | None = None) -> mx.array:
    """Summed log probability (batch,) of the targets that have weight, each sequence from an empty state."""
    ghost = isinstance(model, Ghost)
    out = model.forward(arrays["tokens"]) if ghost else model.forward(arrays["tokens"], key=key)
    return -_weighted(ops.cross_entropy(out.logits, arrays["targets"]), arrays.get("weight")).sum(axis=-1)


def preference_objective(
    chosen: mx.array, rejected: mx.array, reference_chosen: mx.array, reference_rejected: mx.array, beta: float
) -> tuple[mx.array, mx.array]:
    """Direct preference optimization (Rafailov et al., 2023, arXiv:2305.18290), of log likelihoods (batch,).

    Returns:
        The loss (batch,), ``-log sigmoid(beta * margin)`` with ``margin`` how much more than the reference the model
        prefers the chosen answer; and the margin times beta (batch,).
    """
    margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    return mx.logaddexp(-margin, mx.array(0.0)), margin


def _weighted(values: mx.array, weight: mx.array | None) -> mx.array:
    return values if weight is None else values * weight


def _auxiliary(
    model: Ghost, out: Forward, targets: mx.array, weight: mx.array | None, config: TrainSection, share: Share
) -> mx.array:
    """What Ghost predicts for itself: the next byte cheaply, beginnings of pieces, how deep bytes go."""
    total = mx.array(0.0)
    if config.cheap_weight:
        cheap = _weighted(ops.cross_entropy(out.cheap_logits, targets), weight)
        total = total + config.cheap_weight * share.each * cheap.sum()
    if config.boundary_weight:
        entropy = _weighted(_boundary_entropy(out, weight), weight)
        total = total + config.boundary_weight * share.each * entropy.sum()
    if model.config.routing:
        depth = _mean(out.depth, weight, axis=None).sum() / model.config.num_layers
        apart = mx.square(depth - config.target_depth)
        if weight is not None:
            apart = apart * (weight.sum() > 0)
        total = total + config.depth_weight * share.part * apart
    return total


def _boundary_entropy(out: Forward, weight: mx.array | None) -> mx.array:
    """(batch, seqlen). A piece of text begins where the cheap predictor is taken by surprise.

    Beginnings weigh as much as all other bytes together, so that boundary_prob passes 0.5 where a beginning is likelier
    than elsewhere. What is usual is told per sequence, so that a batch may be cut anywhere.
    """
    surprise = mx.stop_gradient(-mx.log(mx.maximum(1 - out.surprise, 1e-6)))
    mean = _mean(surprise, weight)
    usual = mean + mx.sqrt(_mean(mx.square(surprise - mean), weight))
    begins = (surprise > usual).astype(mx.float32)
    part = mx.clip(_mean(begins, weight), 0.01, 0.99)
    balance = begins / part + (1 - begins) / (1 - part)
    entropy = mx.logaddexp(out.boundary_logit, mx.array(0.0)) - out.boundary_logit * begins
    return 0.5 * balance * entropy


def _mean(values: mx.array, weight: mx.array | None, axis: int | None = -1) -> mx.array:
    if weight is None:
        return values.mean(axis=axis, keepdims=True)
    total = weight.sum(axis=axis, keepdims=True)
    return (values * weight).sum(axis=axis, keepdims=True) / mx.maximum(total, 1e-6)


def divergences(logits: mx.array, teacher_logits: mx.array) -> mx.array:
    """KL(teacher || model) of every token, nats."""
    teacher = mx.stop_gradient(teacher_logits.astype(mx.float32))
    log_p = teacher - mx.logsumexp(teacher, axis=-1, keepdims=True)
    log_q = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return (mx.exp(log_p) * (log_p - log_q)).sum(axis=-1)
