"""Ghost v6 as a whole, against itself composed of MLX operations and against PyTorch."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from benchmarks.conftest import Timed
from benchmarks.measure import Case
from benchmarks.memory import measure
from benchmarks.peers import mlx_ghost
from benchmarks.peers.extras import load
from benchmarks.workloads import ghost
from ghost_native.cli import blas
from ghost_native.models import Ghost
from ghost_native.train import TrainSection

TOLERANCE = 1e-4  # NRMSE of logits and losses after six layers
ONCE: dict[str, Any] = {"seconds": 0.0, "min_rounds": 1}  # the composed model takes seconds
COMPOSED, TORCH = "composed of MLX operations", "torch"

# Beating the reference BLAS of MLX's Linux wheels proves nothing, and takes minutes.
on_a_fast_blas = pytest.mark.skipif(
    blas.running().name == "MLX's own",
    reason="MLX runs on its reference BLAS here; `ghost-native bench` starts with OpenBLAS where the system has it",
)
TOLD = 200  # bytes of a stream before the timed one


def forward_case(model: Ghost) -> Case:
    return ghost.case("forward", model, ghost.BATCH, ghost.SEQLEN)


def training_case(model: Ghost) -> Case:
    case = ghost.case("training step", model, ghost.BATCH, ghost.SEQLEN)
    return case.backward(3 * case.flops, 5 * case.moved)


def prefill_case(model: Ghost) -> Case:
    return ghost.case("prefill", model, 1, ghost.PREFILL)


def decode_case(model: Ghost) -> Case:
    return ghost.case("decode", model, 1, 1)


def first_loss() -> mx.array:
    return ghost.gradients(ghost.build(), ghost.text(ghost.BATCH, ghost.SEQLEN + 1))[0]


def told(model: Ghost) -> tuple[mx.array, Any]:
    """The byte to time, and the state before it."""
    tokens = ghost.text(1, TOLD + 1)
    _, state = model.step(tokens[:, :TOLD], model.init_state())
    mx.eval(state)
    return tokens[:, TOLD:], state


# -- forward ----------------------------------------------------------------------------------------------------------


def test_forward_ours(timed: Timed) -> None:
    model, tokens = ghost.build().pack(), ghost.text()
    timed(lambda: model(tokens), forward_case(model), expected=lambda: ghost.build()(tokens), tolerance=TOLERANCE,
          seconds=2.0, extra=lambda: measure("benchmarks.workloads.ghost:forward_run"))  # fmt: skip


@on_a_fast_blas
def test_forward_composed(timed: Timed) -> None:
    model, tokens = ghost.build().pack(), ghost.text()
    timed(mlx_ghost.plain(lambda: model(tokens)), forward_case(model).rival(COMPOSED), expected=lambda: model(tokens),
          tolerance=TOLERANCE, extra=lambda: measure("benchmarks.peers.mlx_ghost:forward_run", runs=2),
          **ONCE)  # fmt: skip


def test_forward_torch(timed: Timed) -> None:
    peer, model, tokens = load("torch_ghost"), ghost.build(), ghost.text()
    run, given = peer.TorchGhost(model).for_inference(), peer.tokens_of(tokens)
    with peer.inference():
        timed(lambda: run(given).logits, forward_case(model).rival(TORCH), expected=lambda: model(tokens),
              tolerance=TOLERANCE, evaluate=None, seconds=3.0, min_rounds=4,
              extra=lambda: measure("benchmarks.peers.footprint:forward_run"))  # fmt: skip


# -- training ---------------------------------------------------------------------------------------------------------


def test_training_step_ours(timed: Timed) -> None:
    model = ghost.build()
    step = ghost.training_step(model, ghost.text(ghost.BATCH, ghost.SEQLEN + 1))
    timed(step, training_case(model), expected=first_loss, tolerance=TOLERANCE, select=lambda result: result[0],
          seconds=4.0, extra=lambda: measure("benchmarks.workloads.ghost:training_run"))  # fmt: skip


@on_a_fast_blas
def test_training_step_composed(timed: Timed) -> None:
    model = ghost.build()
    step = mlx_ghost.plain(ghost.training_step(model, ghost.text(ghost.BATCH, ghost.SEQLEN + 1)))
    timed(step, training_case(model).rival(COMPOSED), expected=first_loss, tolerance=TOLERANCE,
          select=lambda result: result[0], extra=lambda: measure("benchmarks.peers.mlx_ghost:training_run", runs=2),
          **ONCE)  # fmt: skip


def test_training_step_torch(timed: Timed) -> None:
    peer, model = load("torch_ghost"), ghost.build()
    tokens = peer.tokens_of(ghost.text(ghost.BATCH, ghost.SEQLEN + 1))
    peer.use_threads()
    step = peer.training_step(peer.TorchGhost(model), tokens, TrainSection())
    timed(step, training_case(model).rival(TORCH), expected=first_loss, tolerance=TOLERANCE, evaluate=None,
          select=lambda loss: loss.numpy(), seconds=6.0, min_rounds=3,
          extra=lambda: measure("benchmarks.peers.footprint:training_run", runs=2))  # fmt: skip


# -- streaming --------------------------------------------------------------------------------------------------------


def test_prefill_ours(timed: Timed) -> None:
    model, tokens = ghost.build().pack(), ghost.text(1, ghost.PREFILL)
    timed(lambda: model.step(tokens, model.init_state()), prefill_case(model), expected=lambda: ghost.build()(tokens),
          tolerance=TOLERANCE, select=lambda result: result[0], seconds=2.0)  # fmt: skip


@on_a_fast_blas
def test_prefill_composed(timed: Timed) -> None:
    model, tokens = ghost.build().pack(), ghost.text(1, ghost.PREFILL)
    timed(mlx_ghost.plain(lambda: model.step(tokens, model.init_state())), prefill_case(model).rival(COMPOSED),
          expected=lambda: model(tokens), tolerance=TOLERANCE, select=lambda result: result[0], **ONCE)  # fmt: skip


def test_prefill_torch(timed: Timed) -> None:
    peer, model, tokens = load("torch_ghost"), ghost.build(), ghost.text(1, ghost.PREFILL)
    run, given = peer.TorchGhost(model).for_inference(), peer.tokens_of(tokens)
    with peer.inference():
        timed(lambda: run(given).logits, prefill_case(model).rival(TORCH), expected=lambda: model(tokens),
              tolerance=TOLERANCE, evaluate=None, seconds=3.0, min_rounds=4)  # fmt: skip


def test_decode_ours(timed: Timed) -> None:
    model = ghost.build().pack()
    byte, state = told(model)
    timed(lambda: model.step(byte, state), decode_case(model), expected=lambda: model(ghost.text(1, TOLD + 1))[:, -1:],
          tolerance=TOLERANCE, select=lambda result: result[0], seconds=1.0)  # fmt: skip


@on_a_fast_blas
def test_decode_composed(timed: Timed) -> None:
    model = ghost.build().pack()
    byte, state = told(model)
    timed(mlx_ghost.plain(lambda: model.step(byte, state)), decode_case(model).rival(COMPOSED),
          expected=lambda: model.step(byte, state)[0], tolerance=TOLERANCE, select=lambda result: result[0],
          seconds=2.0)  # fmt: skip


def test_decode_torch(timed: Timed) -> None:
    peer, model = load("torch_ghost"), ghost.build()
    run, tokens = peer.TorchGhost(model).for_inference(), peer.tokens_of(ghost.text(1, TOLD + 1))
    with peer.inference():
        state, byte = run(tokens[:, :TOLD]).state, tokens[:, TOLD:]
        timed(lambda: run(byte, state).logits, decode_case(model).rival(TORCH),
              expected=lambda: model(ghost.text(1, TOLD + 1))[:, -1:], tolerance=TOLERANCE, evaluate=None,
              seconds=1.0)  # fmt: skip
