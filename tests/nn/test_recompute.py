from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from ghost_native.models import GhostConfig
from ghost_native.models.ghost import GhostLayer
from ghost_native.nn.recompute import recomputed


@pytest.mark.parametrize("weights", ["codebook", "float"])
def test_any_module_with_any_state(weights):
    """A layer of Ghost: its state holds integers and flags, which pass through, and arrays, which get gradients."""
    config = GhostConfig(dim=32, num_layers=2, attention_layers=(1,), stride=4, head_dim=16, weights=weights)
    mx.random.seed(0)
    layer = GhostLayer(config, 1)
    h, state = mx.random.normal((2, 11, 32)), layer.init_state(2)
    cotangent = mx.random.normal(h.shape)
    held = layer.parameters()
    results = []
    for call in (layer, recomputed(layer, layer)):

        def loss(parameters, h, state, call=call):
            layer.update(parameters)
            residual, y, after = call(h, state)
            return ((residual + y) * cotangent).sum(), after

        mamba = {**state, "mamba": {k: v + 0.1 for k, v in state["mamba"].items()}}
        (_, after), gradients = mx.value_and_grad(loss, argnums=(0, 1))(layer.trainable_parameters(), h, mamba)
        layer.update(held)
        results.append((dict(tree_flatten(after)), dict(tree_flatten(gradients))))
    (after, gradients), (after_again, again) = results
    assert gradients.keys() == again.keys() and after.keys() == after_again.keys()
    for name, g in gradients.items():
        assert float(mx.abs(g).max()) > 0 and mx.array_equal(again[name], g), name
    for name, value in after.items():
        same = mx.array_equal(value, after_again[name]) if isinstance(value, mx.array) else value == after_again[name]
        assert same, name


def test_a_function_of_a_tree():
    module = nn.Module()
    module.w = mx.array([2.0, 3.0])

    def call(tree, name):
        assert name == "kept"
        return {"y": tree["x"] * module.w, "n": tree["n"] + 1, "name": name, "none": None}

    def loss(x):
        out = recomputed(module, call)({"x": x, "n": mx.array([1])}, "kept")
        assert out["name"] == "kept" and out["none"] is None and out["n"].item() == 2
        return (out["y"] ** 2).sum()

    x = mx.array([1.0, -1.0])
    value, gradients = nn.value_and_grad(module, loss)(x)
    assert value.item() == 13 and np.array(gradients["w"]).tolist() == [4.0, 6.0]
    assert np.array(mx.grad(loss)(x)).tolist() == [8.0, -18.0]
