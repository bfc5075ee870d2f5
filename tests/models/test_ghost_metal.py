"""Ghost on the Metal kernels gives what it gives on the CPU: logits, gradients, and the stream."""

from __future__ import annotations

import sys

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten

import ghost_native as gn
from ghost_native.data.facts import FactGenerator
from ghost_native.models import Ghost
from ghost_native.train.objective import fact_objective, text_objective
from ghost_native.train.run_config import TrainSection
from tests.metal_cpu.module import on_metal, recorded_launches
from tests.models.test_ghost import build, text
from tests.tolerances import nrmse

# Through some twenty operators, summed in other orders on the two sides.
LIMIT = 1e-5
STEP = {
    "causal_conv1d_fwd_float32",
    "causal_conv1d_bwd_float32",
    "codebook_assign_float32",
    "codebook_matmul_t_tiled_float32",
    "codebook_matmul_n_tiled_float32",
    "codebook_matmul_grad_tile_float32",
    "selective_scan_fwd_float32",
    "selective_scan_bwd_float32",
    "skip_gather_fwd_float32",
    "skip_gather_scatter_float32",
    "skip_gather_scatter_bwd_float32",
}


def gradients(model: Ghost) -> dict[str, mx.array]:
    """Of a training step on text, with what facts are stored."""
    tokens = text(2, 38)

    def loss() -> mx.array:
        return text_objective(model, tokens[:, :-1], tokens[:, 1:], None, TrainSection()).total

    found = dict(tree_flatten(nn.value_and_grad(model, loss)()[1]))
    mx.eval(found)
    return found


def losses_on_facts(model: Ghost) -> mx.array:
    """Without gradients: the memory reads from the best of many candidates, and rounding settles near ties."""
    batch = FactGenerator(1).batch(4, 64, 6)
    found = fact_objective(model, batch.pack(6), batch.arrays(), TrainSection())
    losses = mx.stack([found.total, found.nats])
    mx.eval(losses)
    return losses


def streamed(model: Ghost) -> mx.array:
    tokens = text(2, 40)
    state, pieces = model.init_state(2), []
    for start, stop in [(0, 17), *((t, t + 1) for t in range(17, 29)), (29, 40)]:
        logits, state = model.step(tokens[:, start:stop], state)
        pieces.append(logits)
    whole = mx.concatenate(pieces, axis=1)
    mx.eval(whole)
    return whole


@pytest.mark.parametrize("kind", ["plain", "routed and facts", "packed", "float"])
def test_logits_and_stream(kind):
    model = build(kind)
    tokens = text(2, 40)
    expected = model(tokens)
    mx.eval(expected)
    with on_metal():
        assert nrmse(model(tokens), expected) < LIMIT
        assert nrmse(streamed(model), expected) < LIMIT


@pytest.mark.parametrize("kind", ["plain", "routed and facts"])
def test_gradients(kind):
    model = build(kind)
    expected = gradients(model)
    with on_metal():
        found = gradients(model)
    with gn.composed_form():
        composed = gradients(model)
    assert found.keys() == expected.keys() == composed.keys()
    for name, gradient in expected.items():
        assert nrmse(found[name], gradient) < 5 * LIMIT, name
        assert nrmse(composed[name], gradient) < 5 * LIMIT, name


def test_losses_on_facts():
    model = build("routed and facts")
    expected = losses_on_facts(model)
    with on_metal():
        assert nrmse(losses_on_facts(model), expected) < 10 * LIMIT


@pytest.mark.skipif(sys.platform != "linux", reason="launches are recorded by the emulator, which needs Linux")
def test_every_kernel_of_a_step_is_ours():
    """A routed training step and a streamed byte launch the kernels of every operator that has them."""
    model = build("routed and facts")
    with recorded_launches("fast") as launches:
        gradients(model)
    assert {launch.kernel for launch in launches} >= STEP
    with recorded_launches("fast") as launches:
        streamed(model)
    kernels = {launch.kernel for launch in launches}
    assert {"causal_conv1d_fwd_float32", "selective_scan_states_float32"} <= kernels
    assert any(name.startswith("codebook_matmul_t_gemv") for name in kernels)
