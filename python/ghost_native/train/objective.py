"""What training minimizes: the next byte, the router's and tokenizer's own predictions, and the use of facts."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from ghost_native import ops
from ghost_native.models.ghost import Forward, Ghost
from ghost_native.models.state import GhostState
from ghost_native.nn.fact_memory import PackedFacts
from ghost_native.train.config import TrainConfig


class Objective(NamedTuple):
    """total is minimized; nats is the mean cross-entropy of the next byte alone; state continues the text."""

    total: mx.array
    nats: mx.array
    state: GhostState


def text_objective(
    model: Ghost,
    tokens: mx.array,
    targets: mx.array,
    state: GhostState | None,
    config: TrainConfig,
    teacher_logits: mx.array | None = None,
) -> Objective:
    """On plain text: tokens and targets (batch, seqlen), the state carried from the window before."""
    out = model.forward(tokens, state)
    nats = ops.cross_entropy(out.logits, targets).mean()
    total = nats + _auxiliary(model, out, targets, config)
    if teacher_logits is not None:
        total = total + config.distill_weight * divergence(out.logits, teacher_logits)
    return Objective(total, nats, out.state)


def fact_objective(model: Ghost, facts: PackedFacts, arrays: dict[str, mx.array], config: TrainConfig) -> Objective:
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


def _auxiliary(model: Ghost, out: Forward, targets: mx.array, config: TrainConfig) -> mx.array:
    total = mx.array(0.0)
    if config.cheap_weight:
        total = total + config.cheap_weight * ops.cross_entropy(out.cheap_logits, targets).mean()
    if config.boundary_weight:
        # A piece of text begins where the cheap predictor is taken by surprise. Beginnings weigh as much as all other
        # bytes together, so that boundary_prob passes 0.5 where a beginning is likelier than elsewhere.
        surprise = mx.stop_gradient(-mx.log(mx.maximum(1 - out.surprise, 1e-6)))
        begins = (surprise > surprise.mean() + mx.sqrt(surprise.var())).astype(mx.float32)
        share = mx.clip(begins.mean(), 0.01, 0.99)
        weight = begins / share + (1 - begins) / (1 - share)
        entropy = mx.logaddexp(out.boundary_logit, mx.array(0.0)) - out.boundary_logit * begins
        total = total + config.boundary_weight * (0.5 * weight * entropy).mean()
    if model.config.routing:
        share = out.depth.mean() / model.config.num_layers
        total = total + config.depth_weight * mx.square(share - config.target_depth)
    return total


def divergence(logits: mx.array, teacher_logits: mx.array) -> mx.array:
    """Mean KL(teacher || model) per byte, nats."""
    teacher = mx.stop_gradient(teacher_logits.astype(mx.float32))
    log_p = teacher - mx.logsumexp(teacher, axis=-1, keepdims=True)
    log_q = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return (mx.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()
