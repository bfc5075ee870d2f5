from __future__ import annotations

import dataclasses
import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ghost_native.models import PRESETS, Ghost, GhostConfig, GhostV6


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    config = GhostConfig.preset(name, threshold=0.25)
    assert config.threshold == 0.25
    assert GhostConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dims": 4}, r"\[GhostConfig\] unknown key, given 'dims', allowed: .*Did you mean 'dim'\?"),
        ({"dim": 40}, r"\[GhostConfig\] dim is out of range, given 40, allowed: a multiple of 16"),
        ({"num_layers": 0}, "num_layers is out of range, given 0, allowed: at least 1"),
        ({"conv_width": 5}, "conv_width is out of range, given 5, allowed: 2 to 4"),
        ({"dt_rank": 8}, "dt_rank is out of range, given 8, allowed: None or a multiple of 16"),
        ({"weights": "int8"}, "weights is out of range, given 'int8', allowed: 'codebook' or 'float'"),
        ({"threshold": 2}, "threshold is out of range, given 2, allowed: 0 to 1"),
        ({"max_depth": 9}, r"max_depth is out of range, given 9, allowed: 1 to num_layers = 6"),
        ({"min_depth": 7}, "min_depth is out of range, given 7, allowed: at most max_depth = 6"),
        ({"attention_layers": (-1,)}, r"attention_layers is out of range"),
        ({"head_dim": 48}, "head_dim is out of range, given 48, allowed: a divisor of dim = 256"),
        ({"dstate": 300}, "dstate is out of range, given 300, allowed: at most 256"),
        ({"num_specials": -1}, "num_specials is out of range"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        GhostV6(**values)


def test_unknown_preset():
    with pytest.raises(ValueError, match="unknown preset, given 'huge', allowed: speed, production"):
        GhostConfig.preset("huge")


def test_layers_beyond_the_last_are_left_out():
    config = GhostConfig(num_layers=2)
    assert config.attention_at == () and config.memory_at == (1,)
    assert GhostConfig().attention_at == (3, 5) and GhostConfig().memory_at == (2, 4)


CHANGES = {
    "dim": 64, "num_layers": 3, "dstate": 8, "expand": 1, "conv_width": 3, "dt_rank": 32, "ffn_mult": 2,
    "attention_layers": (0,), "memory_layers": (0,), "stride": 3, "head_dim": 16, "weights": "float", "routing": True,
    "max_depth": 1, "min_depth": 2, "threshold": 1.0, "num_specials": 1, "max_key": 40, "max_value": 40,
}  # fmt: skip


def behaviour(**changes):
    """Everything a configuration can change, as one comparable value."""
    values = {"dim": 32, "num_layers": 2, "attention_layers": (1,), "memory_layers": (1,), "stride": 8, "head_dim": 32}
    model = Ghost(GhostConfig(**{**values, **changes}), seed=0)
    model.store_fact("key", "value")
    out = model.forward(mx.array([[*b"what is the key? the key is ", 256]]))
    shapes = {k: v.shape for k, v in model.weights().items()}
    state = {k: v.shape for k, v in tree_flatten(out.state) if isinstance(v, mx.array)}
    return str((shapes, state, out.routed, np.array(out.logits).round(4).tolist(), np.array(out.depth).tolist()))


def test_every_key_changes_behaviour():
    assert set(CHANGES) == {f.name for f in dataclasses.fields(GhostConfig)}
    routed = {"routing": True, "threshold": 0.0}
    needed = {
        "threshold": routed,
        "min_depth": {**routed, "threshold": 1.0},
        "max_depth": routed,
        "routing": {"threshold": 1.0},
    }
    for key, value in CHANGES.items():
        options = needed.get(key, {})
        assert behaviour(**{**options, key: value}) != behaviour(**options), key
