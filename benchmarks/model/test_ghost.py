"""Ghost v6 as a whole: forward by share of bytes routed, training step, prefill, streaming."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

import ghost_native as gn
from benchmarks.conftest import Timed
from benchmarks.measure import check
from benchmarks.memory import measure
from benchmarks.workloads import ghost
from ghost_native.models import Ghost

TOLERANCE = 1e-4  # NRMSE of logits and gradients after six layers
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
    routed = model.forward(ghost.text()).routed
    assert routed[0] == 1.0 and all(abs(r - share) < 0.05 for r in routed[1:])
    time_forward(timed, model, f"forward, {100 * share:.0f} % routed", share=share, curve=("routed share", share))


def test_training_step(timed: Timed) -> None:
    model, tokens = ghost.build(), ghost.text(ghost.BATCH, ghost.SEQLEN + 1)
    batch, seqlen = ghost.CHECKED
    few = tokens[:batch, : seqlen + 1]
    with gn.composed_form():
        expected = ghost.gradients(model, few)
        mx.eval(expected)
    check(ghost.gradients(model, few), expected, TOLERANCE)
    loss = ghost.gradients(model, tokens)[0]
    mx.eval(loss)
    case = ghost.case("training step", model, ghost.BATCH, ghost.SEQLEN)
    timed(
        ghost.training_step(model, tokens),
        case.backward(3 * case.flops, 5 * case.moved),
        expected=loss,
        tolerance=TOLERANCE,
        select=lambda result: result[0],
        seconds=5.0,
        extra=lambda: measure("benchmarks.workloads.ghost:training_run"),
    )


def test_prefill(timed: Timed) -> None:
    model, tokens = ghost.build().pack(), ghost.text(1, ghost.PREFILL)
    seqlen = ghost.CHECKED[1]
    timed(
        lambda: [(out := model.forward(tokens, model.init_state())).logits, out.state],
        ghost.case("prefill", model, 1, ghost.PREFILL),
        expected=composed_logits(model, tokens),
        tolerance=TOLERANCE,
        select=lambda result: result[0][:, :seqlen],
        seconds=2.0,
    )


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "latent"])
def test_streaming_byte_by_byte(timed: Timed, packed: bool) -> None:
    model = ghost.build()
    if packed:
        model.pack()
    tokens = ghost.text(1, 201)
    _, state = model.step(tokens[:, :200], model.init_state())
    byte = tokens[:, 200:]
    mx.eval(state)
    timed(
        lambda: model.step(byte, state)[0],
        ghost.case("decode" if packed else "decode, latent weights", model, 1, 1),
        expected=lambda: model(tokens)[:, -1:],
        tolerance=TOLERANCE,
        seconds=1.0,
    )
