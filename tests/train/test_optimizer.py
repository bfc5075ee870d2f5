"""Updates of weights against their definitions in NumPy."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn, optimizers
from mlx.utils import tree_flatten

from ghost_native.models import Ghost, GhostConfig
from ghost_native.train.muon import Muon, orthogonalize
from ghost_native.train.optimizer import Optimizer
from tests.tolerances import nrmse


@pytest.mark.parametrize("shape", [(31, 33), (64, 16), (16, 64), (1, 40)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = np.array(orthogonalize(mx.array(x), steps=8))
    u, _, v = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    values = np.linalg.svd(found.astype(np.float64), compute_uv=False)
    assert values.min() > 0.65 and values.max() < 1.25
    # The same singular vectors: the product with u and v is diagonal.
    inner = u.T @ found @ v.T
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-3


def test_orthogonalize_is_the_iteration_of_mlx():
    x = mx.array(np.random.default_rng(1).standard_normal((24, 40)).astype(np.float32))
    theirs = optimizers.Muon(0.1)._zeropower_via_newtonschulz5(x, steps=5)
    assert nrmse(np.array(orthogonalize(x, 5)), np.array(theirs)) < 1e-4


def test_decay_of_muon_is_apart_from_the_gradient():
    rng = np.random.default_rng(2)
    w, g = (mx.array(rng.standard_normal((16, 24)).astype(np.float32)) for _ in range(2))
    zero = {"v": mx.zeros_like(w)}
    plain, decayed = Muon(0.1, weight_decay=0.0), Muon(0.1, weight_decay=0.5)
    a, b = plain.apply_single(g, w, dict(zero)), decayed.apply_single(g, w, dict(zero))
    assert mx.allclose(b, a - 0.1 * 0.5 * w, atol=1e-6)
    assert decayed.weight_decay == 0.5


def update(optimizer: Optimizer, model: nn.Module, g: dict[str, mx.array], rate: float, scale: float = 1.0) -> mx.array:
    norm = optimizer.norm(g) / scale
    optimizer.update(model, g, rate, norm, scale=scale)
    return norm


class Two(nn.Module):
    """A matrix inside, a table, a vector, a codebook."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(3)
        self.inner = mx.array(rng.standard_normal((12, 8)).astype(np.float32))
        self.head = mx.array(rng.standard_normal((6, 8)).astype(np.float32))
        self.scale = mx.array(rng.standard_normal(8).astype(np.float32))
        self.codebook = mx.array(rng.standard_normal((12, 4)).astype(np.float32))


def gradients(model: nn.Module, seed: int = 4) -> dict[str, mx.array]:
    rng = np.random.default_rng(seed)
    return {
        name: mx.array(rng.standard_normal(w.shape).astype(np.float32)) for name, w in tree_flatten(model.parameters())
    }


def adamw(w: np.ndarray, g: np.ndarray, rate: float, decay: float, steps: int) -> np.ndarray:
    m = v = 0.0
    for t in range(1, steps + 1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        w = w * (1 - rate * decay) - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-10)
    return w


def test_adamw_decays_matrices_alone_and_slows_codebooks():
    model, g = Two(), gradients(Two())
    before = {name: np.array(w, np.float64) for name, w in tree_flatten(model.parameters())}
    optimizer = Optimizer(model, weight_decay=0.1, max_grad_norm=0.0, codebook_rate=0.25)
    for _ in range(3):
        norm = update(optimizer, model, g, 0.01)
    assert norm.item() == pytest.approx(
        np.sqrt(sum((np.array(x, np.float64) ** 2).sum() for x in g.values())), rel=1e-5
    )
    for name, decay, rate in (("inner", 0.1, 0.01), ("head", 0.1, 0.01), ("scale", 0, 0.01), ("codebook", 0, 0.0025)):
        wanted = adamw(before[name], np.array(g[name], np.float64), rate, decay, 3)
        assert nrmse(np.array(model[name]), wanted) < 1e-5, name


def test_muon_takes_inner_matrices_and_adamw_the_rest():
    model, g = Two(), gradients(Two())
    before = {name: np.array(w) for name, w in tree_flatten(model.parameters())}
    optimizer = Optimizer(model, kind="muon", weight_decay=0.1, max_grad_norm=0.0, momentum=0.9, adam_lr_multiplier=0.5)
    assert set(optimizer.state["momentum"]) == {"inner"} and set(optimizer.state["m"]) == {"head", "scale", "codebook"}
    update(optimizer, model, g, 0.02)
    nesterov = (1 - 0.9) * g["inner"] + 0.9 * (1 - 0.9) * g["inner"]
    wanted = before["inner"] * (1 - 0.02 * 0.1) - 0.02 * np.sqrt(12 / 8) * np.array(orthogonalize(nesterov))
    assert nrmse(np.array(model.inner), wanted) < 1e-5
    assert nrmse(np.array(model.head), adamw(before["head"], np.array(g["head"]), 0.01, 0.1, 1)) < 1e-5


def test_gradients_too_large_by_a_scale_make_the_same_step():
    first, second = Two(), Two()
    g = gradients(first)
    norms = [
        update(Optimizer(first, max_grad_norm=0.5), first, g, 0.01),
        update(Optimizer(second, max_grad_norm=0.5), second, {k: v * 1024 for k, v in g.items()}, 0.01, 1024.0),
    ]
    assert norms[0].item() == pytest.approx(norms[1].item(), rel=1e-6)
    for (name, a), (_, b) in zip(tree_flatten(first.parameters()), tree_flatten(second.parameters()), strict=True):
        assert mx.allclose(a, b, atol=1e-7), name


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_restored_state_goes_on_bit_for_bit(kind):
    straight, broken = Two(), Two()
    optimizer = Optimizer(straight, kind=kind)
    for step in range(4):
        update(optimizer, straight, gradients(straight, step), 0.01)
    first = Optimizer(broken, kind=kind)
    for step in range(2):
        update(first, broken, gradients(broken, step), 0.01)
    second = Optimizer(broken, kind=kind)
    second.state = first.state
    for step in range(2, 4):
        update(second, broken, gradients(broken, step), 0.01)
    for (name, a), (_, b) in zip(tree_flatten(straight.parameters()), tree_flatten(broken.parameters()), strict=True):
        assert mx.array_equal(a, b), name


def test_freezing_in_between_is_refused():
    model = Two()
    optimizer = Optimizer(model)
    model.freeze(keys=["head"])
    with pytest.raises(ValueError, match=r"trainable weights have changed .* given 'head' and 0 others"):
        optimizer.update(model, {}, 0.1, mx.array(0.0))


def test_in_ghost_muon_leaves_tables_and_memory_alone():
    model = Ghost(GhostConfig(dim=32, num_layers=2), seed=0)
    names = Optimizer(model, kind="muon").state["momentum"]
    assert names and all(name.startswith(("layers.", "router.", "tokenizer.")) for name in names), names
    assert not any("embedding" in name or "codebook" in name for name in names)
    assert "layers.0.ffn.up.weight" in names
