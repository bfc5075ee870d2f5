from __future__ import annotations

import dataclasses
import json

import mlx.core as mx
import numpy as np
import pytest

from ghost_native.models import TRANSFORMER_PRESETS, Transformer, TransformerConfig
from tests.models.transformer_models import SMALL, build, text

# Parameters, d_model, n_layers and n_heads of the named sizes.
SIZES = {
    "tiny": (7e6, 256, 6, 8),
    "small": (30e6, 512, 8, 8),
    "medium": (137e6, 768, 12, 12),
    "large": (500e6, 1024, 24, 16),
}


def params_of(config: TransformerConfig) -> int:
    """Counted on paper."""
    d, hidden = config.d_model, config.hidden_dim
    block = 4 * d * d + (3 if config.ffn_activation == "silu" else 2) * d * hidden + 2 * d
    embeddings = (1 if config.tie_embeddings else 2) * config.vocab_size * d
    return config.n_layers * block + d + embeddings


@pytest.mark.parametrize("name", SIZES)
def test_presets_have_the_parameters_of_their_names(name):
    config = TransformerConfig.preset(name)
    params, *shape = SIZES[name]
    assert [config.d_model, config.n_layers, config.n_heads] == shape
    assert params_of(config) == pytest.approx(params, rel=0.05)
    assert TransformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "changes",
    [{}, {"ffn_activation": "gelu"}, {"tie_embeddings": False}, {"weights": "codebook"}],
    ids=["tiny", "gelu", "untied", "codebook"],
)
def test_parameters_are_as_counted_on_paper(changes):
    config = TransformerConfig.preset("tiny", **changes)
    assert Transformer(config).count_params() == params_of(config)


def test_presets_with_changes():
    assert TransformerConfig.preset("medium", vocab_size=256).vocab_size == 256
    assert set(TRANSFORMER_PRESETS) == set(SIZES)
    with pytest.raises(ValueError, match=r"unknown preset, given 'huge', allowed: tiny, small, medium, large"):
        TransformerConfig.preset("huge")


@pytest.mark.parametrize(("multiple", "hidden"), [(4, 128), (8 / 3, 80), (0.01, 16), (1.7, 48)])
def test_inner_width_is_a_multiple_of_16(multiple, hidden):
    assert TransformerConfig(d_model=32, n_heads=4, mlp_multiple=multiple).hidden_dim == hidden


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_modle": 4}, r"\[TransformerConfig\] unknown key, given 'd_modle', allowed: .*Did you mean 'd_model'\?"),
        ({"vocab_size": 0}, r"\[TransformerConfig\] vocab_size is out of range, given 0, allowed: at least 1"),
        ({"n_layers": 0}, "n_layers is out of range, given 0, allowed: at least 1"),
        ({"d_model": 0}, "d_model is out of range, given 0, allowed: at least 1"),
        ({"n_heads": 0}, "n_heads is out of range, given 0, allowed: at least 1"),
        ({"n_heads": 5}, "n_heads is out of range, given 5, allowed: a divisor of d_model = 768"),
        ({"n_heads": 768}, "n_heads is out of range, given 768, allowed: a divisor of d_model / 2 = 384"),
        ({"mlp_multiple": 0}, "mlp_multiple is out of range, given 0, allowed: more than 0, at most 64"),
        ({"dropout": 1.0}, "dropout is out of range, given 1.0, allowed: 0 to below 1"),
        ({"dropout": -0.1}, "dropout is out of range, given -0.1"),
        ({"max_seq_len": 0}, "max_seq_len is out of range, given 0, allowed: at least 1"),
        ({"rope_theta": 0.0}, "rope_theta is out of range, given 0.0, allowed: more than 0"),
        ({"ffn_activation": "relu"}, "ffn_activation is out of range, given 'relu', allowed: 'silu' or 'gelu'"),
        ({"norm_eps": 0.0}, "norm_eps is out of range, given 0.0, allowed: between 0 and 1"),
        ({"weights": "int8"}, "weights is out of range, given 'int8', allowed: 'codebook' or 'float'"),
        ({"weights": "codebook", "d_model": 24, "n_heads": 4},
         "d_model is out of range, given 24, allowed: a multiple of 16 with weights = 'codebook'"),
    ],
)  # fmt: skip
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig.from_dict(values)


CHANGES = {
    "vocab_size": 38, "n_layers": 2, "d_model": 48, "n_heads": 2, "mlp_multiple": 2.0, "dropout": 0.2, "max_seq_len": 8,
    "rope_theta": 50.0, "ffn_activation": "gelu", "norm_eps": 1e-2, "tie_embeddings": False, "weights": "codebook",
}  # fmt: skip


def behaviour(**changes):
    """Everything a configuration can change, as one comparable value."""
    model = build(**changes)
    shapes = {k: v.shape for k, v in model.weights().items()}
    logits = model(text(1, 12), key=mx.random.key(0))
    return str((shapes, np.array(logits).round(4).tolist()))


def test_every_key_changes_behaviour():
    assert set(CHANGES) == {f.name for f in dataclasses.fields(TransformerConfig)} == set(SMALL) | {
        "ffn_activation", "tie_embeddings", "weights"
    }  # fmt: skip
    for key, value in CHANGES.items():
        assert behaviour(**{key: value}) != behaviour(), key
