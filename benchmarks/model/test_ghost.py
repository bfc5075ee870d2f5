"""Ghost v6 as a whole: forward by share of bytes routed, training step, prefill."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

import ghost_native as gn
from benchmarks.conftest import Timed
from benchmarks.measure import check
from benchmarks.memory import measure
from benchmarks.workloads import ghost
from ghost_native.models import Ghost
from ghost_native.models.ghost import Forward
from ghost_native.nn.linear import Activation

TOLERANCE = 1e-4  # NRMSE of logits and gradients after six layers
REDUCED = {"float32": TOLERANCE, "bfloat16": 2e-2, "int8": 6e-2}
SHARES = [1.0, 0.5, 0.25, 0.1]


def composed_logits(model: Ghost, tokens: mx.array) -> mx.array:
    batch, seqlen = ghost.CHECKED
    with gn.composed_form():
        logits = model(tokens[:batch, :seqlen])
        mx.eval(logits)
    return logits


def time_forward(timed: Timed, model: Ghost, name: str, **changes: Any) -> None:
    tokens = ghost.text()
    batch, seqlen = ghost.CHECKED
    timed(
        lambda: model(tokens),
        ghost.case(name, model, *tokens.shape, **changes),
        expected=composed_logits(model, tokens),
        tolerance=TOLERANCE,
        select=lambda logits: logits[:batch, :seqlen],
        seconds=3.0,
        extra=(lambda: measure("benchmarks.workloads.ghost:forward_run")) if name == "forward" else None,
    )


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "latent"])
def test_forward(timed: Timed, packed: bool) -> None:
    model = ghost.build()
    time_forward(timed, model.pack() if packed else model, "forward" if packed else "forward, latent weights")


@pytest.mark.parametrize("share", SHARES)
def test_forward_by_routed_share(timed: Timed, share: float) -> None:
    model = ghost.build(share).pack()
    routed = routed_share(model.forward(ghost.text()), share)
    time_forward(timed, model, f"forward, {100 * share:.0f} % routed", share=routed, curve=("routed share", share))


@pytest.mark.parametrize("share", SHARES)
def test_routed_layers_by_share(timed: Timed, share: float) -> None:
    """Plans, gathering, layers and scattering, without what all bytes go through."""
    model = ghost.build(share).pack()
    h, out = mx.random.normal((ghost.BATCH, ghost.SEQLEN, model.config.dim)), model.forward(ghost.text())
    depth = out.depth
    mx.eval(h, depth)
    batch, seqlen = ghost.CHECKED
    with gn.composed_form():
        expected = ghost.routed_layers(model, h[:batch, :seqlen], depth[:batch, :seqlen])
        mx.eval(expected)
    routed, name = routed_share(out, share), f"routed layers, {100 * share:.0f} %"
    case = ghost.case(name, model, ghost.BATCH, ghost.SEQLEN, routed, curve=("routed share", share))
    everyone = ghost.flops_of_a_byte(model, 0.0) * ghost.BATCH * ghost.SEQLEN
    timed(
        lambda: ghost.routed_layers(model, h, depth),
        replace(case, flops=case.flops - everyone),
        expected=expected,
        tolerance=TOLERANCE,
        select=lambda h: h[:batch, :seqlen],
        seconds=3.0,
    )


def routed_share(out: Forward, share: float) -> float:
    """The share of the bytes that were routed, about `share`."""
    first, *routed = out.routed
    assert first == 1.0 and all(abs(r - share) < 0.05 for r in routed)
    return routed[0]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_step(timed: Timed, precision: Activation) -> None:
    model, tokens = ghost.build().set_activation(precision), ghost.text(ghost.BATCH, ghost.SEQLEN + 1)
    batch, seqlen = ghost.CHECKED
    few = tokens[:batch, : seqlen + 1]
    with gn.composed_form():
        expected = ghost.gradients(model, few)
        mx.eval(expected)
    if precision == "float32":  # straight-through gradients of rounded products differ by more than a bound tells
        check(ghost.gradients(model, few), expected, TOLERANCE)
    loss = ghost.gradients(model, tokens)[0]
    mx.eval(loss)
    name = "training step" if precision == "float32" else f"training step, {precision}"
    case = ghost.case(name, model, ghost.BATCH, ghost.SEQLEN, peak=precision)
    timed(
        ghost.training_step(model, tokens),
        case.backward(3 * case.flops, 5 * case.moved),
        expected=loss,
        tolerance=TOLERANCE,
        select=lambda result: result[0],
        seconds=5.0,
        extra=(lambda: measure("benchmarks.workloads.ghost:training_run")) if precision == "float32" else None,
    )


@pytest.mark.parametrize("activation", list(REDUCED))
def test_prefill(timed: Timed, activation: Activation) -> None:
    model, tokens = ghost.build().pack().set_activation(activation), ghost.text(1, ghost.PREFILL)
    name = "prefill" if activation == "float32" else f"prefill, {activation}"
    seqlen = ghost.CHECKED[1]
    timed(
        lambda: model.step(tokens, model.init_state()),
        ghost.case(name, model, 1, ghost.PREFILL, peak=activation),
        expected=composed_logits(model, tokens),
        tolerance=REDUCED[activation],
        select=lambda result: result[0][:, :seqlen],
        seconds=2.0,
    )
