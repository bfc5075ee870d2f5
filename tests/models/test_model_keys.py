"""Every key of both models' configurations changes what the model is, computes, keeps or refuses."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ghost_native.models import Ghost, GhostConfig, Transformer, TransformerConfig, export_model, load_model
from ghost_native.models.checked import keys_of
from tests.models.transformer_models import SMALL, build, text

GHOST: dict[str, Any] = {
    "dim": 32, "num_layers": 3, "attention_layers": (1,), "memory_layers": (2,), "stride": 16, "threshold": 0.0,
}  # fmt: skip
ROUTED = {"routing": True}
SURE = {"threshold": 1.0}  # no byte is a surprise, so that all stop at min_depth
FACT = ("the capital of Zembla", "Onhava, by the sea")
TEXT = b"What is the capital of Zembla? I will tell: "

# Of every key: what it takes for the key to matter, and a value that is not the default.
GHOST_CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "dim": ({}, 48),
    "num_layers": ({}, 4),
    "dstate": ({}, 8),
    "expand": ({}, 1),
    "conv_width": ({}, 3),
    "dt_rank": ({}, 32),
    "ffn_mult": ({}, 2),
    "attention_layers": ({}, (0, 2)),
    "memory_layers": ({}, (0,)),
    "stride": ({}, 4),
    "head_dim": ({}, 16),
    "weights": ({}, "float"),
    "routing": (SURE, True),
    "max_depth": (ROUTED, 2),
    "min_depth": ({**ROUTED, **SURE}, 3),
    "threshold": (ROUTED, 1.0),
    "num_specials": ({}, 6),
    "max_key": ({}, 20),
    "max_value": ({}, 17),
}
TRANSFORMER_CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "vocab_size": ({}, 41),
    "n_layers": ({}, 2),
    "d_model": ({}, 48),
    "n_heads": ({}, 2),
    "mlp_multiple": ({}, 3.0),
    "dropout": ({}, 0.3),
    "max_seq_len": ({}, 16),
    "rope_theta": ({}, 1000.0),
    "ffn_activation": ({}, "gelu"),
    "norm_eps": ({}, 0.1),
    "tie_embeddings": ({}, False),
    "weights": ({}, "codebook"),
}


def made(model: Any) -> dict[str, tuple[int, ...]]:
    """The model's weights by name, with their shapes."""
    return {name: w.shape for name, w in tree_flatten(model.parameters())}


def ghost_behaviour(**values: Any) -> tuple[Any, ...]:
    """Weights, logits of a text about a stored fact with what went where, and what storing it said."""
    model = Ghost(GhostConfig(**{**GHOST, **values}), seed=2)
    said = ""
    try:
        model.store_fact(*FACT)
    except ValueError as error:
        said = str(error)
        model.store_fact("capital of Zembla", "Onhava")
    model.memory.start_bias = mx.array(2.0)  # sure of itself, as after training
    out = model.forward(mx.array(list(TEXT))[None])
    assert sum(out.routed) > 0
    return made(model), np.array(out.logits), out.routed, said


def transformer_behaviour(**values: Any) -> tuple[Any, ...]:
    """Weights, and logits of a text in training mode."""
    model = build(**values).train()
    return made(model), np.array(model(text(2, 40), key=mx.random.key(0))), [], ""


def differ(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    same = a[0] == b[0] and a[2:] == b[2:] and a[1].shape == b[1].shape
    return not same or not np.allclose(a[1], b[1], rtol=1e-4, atol=1e-4 * float(np.abs(a[1]).max()))


@pytest.mark.parametrize("name", GHOST_CASES)
def test_every_key_of_a_ghost_matters(name):
    needed, value = GHOST_CASES[name]
    base = ghost_behaviour(**needed)
    assert not differ(base, ghost_behaviour(**needed)), "the same configuration is the same model"
    assert differ(base, ghost_behaviour(**needed, **{name: value}))


@pytest.mark.parametrize("name", TRANSFORMER_CASES)
def test_every_key_of_a_transformer_matters(name):
    needed, value = TRANSFORMER_CASES[name]
    base = transformer_behaviour(**needed)
    assert not differ(base, transformer_behaviour(**needed)), "the same configuration is the same model"
    assert differ(base, transformer_behaviour(**needed, **{name: value}))


@pytest.mark.parametrize(
    ("config", "cases", "base"), [(GhostConfig, GHOST_CASES, GHOST), (TransformerConfig, TRANSFORMER_CASES, SMALL)],
    ids=["ghost", "transformer"],
)  # fmt: skip
def test_no_key_is_without_a_case(config, cases, base):
    assert cases.keys() == keys_of(config).keys()
    for name, (needed, value) in cases.items():
        assert getattr(config(**{**base, **needed}), name) != value, name


@pytest.mark.parametrize("name", GHOST_CASES)
def test_every_key_of_a_ghost_is_saved_and_exported(name, tmp_path):
    needed, value = GHOST_CASES[name]
    kept(Ghost(GhostConfig(**{**GHOST, **needed, name: value})), tmp_path)


@pytest.mark.parametrize("name", TRANSFORMER_CASES)
@pytest.mark.parametrize("form", [{}, {"weights": "codebook"}], ids=["as a Llama", "as our own"])
def test_every_key_of_a_transformer_is_saved_and_exported(name, form, tmp_path):
    values = {**SMALL, **form, name: TRANSFORMER_CASES[name][1]}
    model = Transformer(TransformerConfig(**values))
    # A Llama's configuration says nothing of dropout, and the inner width itself.
    llama = values.get("weights") != "codebook" and values.get("ffn_activation") != "gelu"
    width = model.config.hidden_dim / model.config.d_model
    kept(model, tmp_path, **({"dropout": 0.0, "mlp_multiple": width} if llama else {}))


def kept(model: Any, folder: Any, **lost: Any) -> None:
    model.save(folder / "model.safetensors")
    export_model(model, folder / "exported")
    wanted = model.config.to_dict()
    assert load_model(folder / "model.safetensors").config.to_dict() == wanted
    assert load_model(folder / "exported").config.to_dict() == {**wanted, **lost}
