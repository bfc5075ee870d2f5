from __future__ import annotations

import json

import pytest

from ghost_native.models import PRESETS, GhostConfig, GhostV6


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
