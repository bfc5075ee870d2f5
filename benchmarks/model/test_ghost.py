"""Ghost v6 as a whole: forward by share of bytes routed, training step, streaming."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from benchmarks.conftest import Timed
from ghost_native.models import Ghost, GhostConfig
from ghost_native.train import TrainConfig
from ghost_native.train.objective import text_objective
from ghost_native.train.optimizer import GhostOptimizer

BATCH, SEQLEN = 16, 256


def build(share: float = 1.0, **changes: object) -> Ghost:
    """The default model, in which `share` of the byte values go through all layers and the others through the first."""
    model = Ghost(GhostConfig(routing=share < 1, threshold=0.0, **changes), seed=0)  # type: ignore[arg-type]
    model.router.context = mx.zeros_like(model.router.context)
    model.router.bias = mx.array(0.0)
    model.router.importance = mx.where(mx.arange(256) < round(256 * share), 40.0, -40.0)
    mx.eval(model.parameters())
    return model


def text() -> mx.array:
    return mx.array(np.random.default_rng(0).integers(0, 256, (BATCH, SEQLEN + 1)))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 0.1])
def test_forward_by_routed_share(timed: Timed, share: float) -> None:
    model, tokens = build(share).pack(), text()[:, :-1]
    routed = model.forward(tokens).routed
    assert routed[0] == 1.0 and all(abs(r - share) < 0.05 for r in routed[1:])
    timed(lambda: model(tokens), seconds=3.0)


def test_training_step(timed: Timed) -> None:
    model, tokens, config = build(), text(), TrainConfig(steps=1)
    optimizer = GhostOptimizer(model, config)
    step = nn.value_and_grad(model, lambda: text_objective(model, tokens[:, :-1], tokens[:, 1:], None, config).total)

    def run() -> list[object]:
        _, gradients = step()
        optimizer.update(model, gradients, 1e-4)
        return [model.parameters(), optimizer.state]

    timed(run, seconds=3.0)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "latent"])
def test_streaming_byte_by_byte(timed: Timed, packed: bool) -> None:
    model = build()
    if packed:
        model.pack()
    _, state = model.step(text()[:1, :200], model.init_state())
    byte = mx.array([[65]])
    mx.eval(state)
    timed(lambda: model.step(byte, state)[0])
