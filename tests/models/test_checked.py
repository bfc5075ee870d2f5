from __future__ import annotations

import dataclasses
import json
import pickle
from typing import Literal

import numpy as np
import pytest

from ghost_native.data.config import DataConfig
from ghost_native.models.checked import CheckedConfig, ConfigError, Rule, did_you_mean, keys_of
from ghost_native.models.config import GhostConfig
from ghost_native.models.keys import Kind, key
from ghost_native.models.transformer_config import TRANSFORMER_PRESETS, TransformerConfig
from ghost_native.train.run_config import TrainSection

CONFIGS = [GhostConfig, TransformerConfig, DataConfig, TrainSection]


@dataclasses.dataclass(frozen=True)
class Example(CheckedConfig):
    hidden: int = key(256, "width", low=1)
    heads: int = key(4, "heads", low=1, high=64)
    block: int | None = key(None, "block; None for one", multiple_of=8)
    rate: float = key(1e-3, "rate", above=0)
    share: float = key(0.5, "share", low=0, below=1)
    scale: float = key(1.0, "scale", above=0, high=8)
    plain: float = key(0.0, "anything")
    on: bool = key(True, "whether")
    mode: Literal["fast", "slow", "off"] = key("fast", "how")
    name: str | None = key(None, "name; None for none")
    files: tuple[str, ...] = key((), "files")
    layers: tuple[int, ...] = key((1, 2), "layers", low=0)
    betas: tuple[float, float] = key((0.9, 0.99), "betas", low=0, below=1)

    RULES = (
        Rule("heads", "a divisor of hidden = {hidden}", lambda c: c.hidden % c.heads == 0),
        Rule("name", "None", lambda c: c.on or c.name is None, where="on is false"),
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"hidden": "512"}, {"hidden": 512}),
        ({"hidden": 1e3, "heads": 8.0}, {"hidden": 1000, "heads": 8}),
        ({"hidden": np.int64(64)}, {"hidden": 64}),
        ({"hidden": "1e3"}, {"hidden": 1000}),
        ({"rate": "1e-5"}, {"rate": 1e-5}),
        ({"rate": " .5 "}, {"rate": 0.5}),
        ({"rate": "1_000."}, {"rate": 1000.0}),
        ({"rate": 2}, {"rate": 2.0}),
        ({"rate": np.float32(0.5)}, {"rate": 0.5}),
        ({"block": None}, {"block": None}),
        ({"block": "16"}, {"block": 16}),
        ({"layers": [0, "3"]}, {"layers": (0, 3)}),
        ({"layers": []}, {"layers": ()}),
        ({"files": "one.txt"}, {"files": ("one.txt",)}),
        ({"files": ["a", "b"]}, {"files": ("a", "b")}),
        ({"betas": ["0.5", 0]}, {"betas": (0.5, 0.0)}),
    ],
)
def test_values_are_converted(values, expected):
    config = Example(**values)
    for name, value in expected.items():
        assert getattr(config, name) == value and type(getattr(config, name)) is type(value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden": "wide"}, "hidden has the wrong type, given 'wide', allowed: a whole number."),
        ({"hidden": 1.5}, "hidden has the wrong type, given 1.5, allowed: a whole number."),
        ({"hidden": "1.5"}, "hidden has the wrong type, given '1.5', allowed: a whole number."),
        ({"hidden": True}, "hidden has the wrong type, given True, allowed: a whole number."),
        ({"hidden": None}, "hidden has the wrong type, given None, allowed: a whole number."),
        ({"hidden": [1]}, "hidden has the wrong type, given [1], allowed: a whole number."),
        ({"hidden": float("inf")}, "hidden has the wrong type, given inf, allowed: a whole number."),
        ({"hidden": 0}, "hidden is out of range, given 0, allowed: at least 1."),
        ({"heads": 65}, "heads is out of range, given 65, allowed: 1 to 64."),
        ({"heads": 5}, "heads is out of range, given 5, allowed: a divisor of hidden = 256."),
        ({"block": 12}, "block is out of range, given 12, allowed: None or a multiple of 8."),
        ({"block": 0}, "block is out of range, given 0, allowed: None or a multiple of 8."),
        ({"block": "x"}, "block has the wrong type, given 'x', allowed: None or a whole number."),
        ({"rate": 0}, "rate is out of range, given 0, allowed: more than 0."),
        ({"rate": "1e"}, "rate has the wrong type, given '1e', allowed: a number."),
        ({"rate": "nan"}, "rate has the wrong type, given 'nan', allowed: a number."),
        ({"rate": float("nan")}, "rate is out of range, given nan, allowed: a finite number."),
        ({"plain": float("inf")}, "plain is out of range, given inf, allowed: a finite number."),
        ({"plain": "1e999"}, "plain is out of range, given '1e999', allowed: a finite number."),
        ({"share": 1}, "share is out of range, given 1, allowed: 0 to below 1."),
        ({"scale": 9}, "scale is out of range, given 9, allowed: more than 0 and at most 8."),
        ({"on": 1}, "on has the wrong type, given 1, allowed: true or false. Did you mean true?"),
        ({"on": "off"}, "on has the wrong type, given 'off', allowed: true or false. Did you mean false?"),
        ({"on": "maybe"}, "on has the wrong type, given 'maybe', allowed: true or false."),
        ({"mode": "fsat"}, "mode is out of range, given 'fsat', allowed: 'fast', 'slow', 'off'. Did you mean 'fast'?"),
        ({"mode": 3}, "mode has the wrong type, given 3, allowed: 'fast', 'slow', 'off'. A string that looks like"),
        ({"name": 7}, "name has the wrong type, given 7, allowed: None or a string. A string that looks like"),
        ({"name": "x", "on": False}, "name is out of range, given 'x', allowed: None, where on is false."),
        ({"files": 3}, "files has the wrong type, given 3, allowed: a list of values, each a string."),
        ({"layers": "12"}, "layers has the wrong type, given '12', allowed: a list of values, each a whole number."),
        ({"layers": {1: 2}}, "layers has the wrong type, given {1: 2}, allowed: a list"),
        ({"layers": (-1,)}, "layers is out of range, given (-1,), allowed: values, each 0 or more."),
        ({"betas": [0.5]}, "betas is out of range, given [0.5], allowed: 2 values, each 0 to below 1."),
        ({"betas": 0.5}, "betas has the wrong type, given 0.5, allowed: a list of 2 values, each a number."),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ConfigError) as caught:
        Example(**values)
    assert str(caught.value).startswith(f"[Example] {message}")
    assert isinstance(caught.value, ValueError) and caught.value.key == next(iter(values))


def test_unknown_keys():
    with pytest.raises(ConfigError, match=r"\[Example\] unknown key, given 'hiden', allowed: betas, .*mean 'hidden'\?"):
        Example.from_dict({"hiden": 1})
    with pytest.raises(ConfigError, match=r"given 'xyzzy', allowed: betas, block, .*, share\.$"):
        Example.from_dict({"xyzzy": 1})


def test_an_error_in_a_section():
    with pytest.raises(ConfigError) as caught:
        Example(heads=5, hidden=256)
    error = caught.value.within("Whole", "part")
    assert str(error).startswith("[Whole] part.heads is out of range, given 5, allowed: a divisor of hidden = 256.")
    assert str(error.placed({"part.heads": "x.yaml:3"})).startswith("[Whole] x.yaml:3: part.heads is out of range, giv")
    # Where the key itself was not given, the other key of the rule is where to look.
    other = str(error.placed({"part.hidden": "x.yaml:4", "part.rate": "x.yaml:1"}))
    assert other.startswith("[Whole] x.yaml:4: part.heads is out of range, given 5 by default, allowed:")
    assert str(error.placed({})) == str(error)


def test_messages_about_files_speak_yaml():
    with pytest.raises(ConfigError) as caught:
        Example(block=True)
    message = str(caught.value.placed({"block": "x.yaml:1"}))
    assert message == "[Example] x.yaml:1: block has the wrong type, given true, allowed: null or a whole number."


def test_configurations_are_frozen_hashable_and_survive_pickling():
    config = Example(layers=[1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden = 3
    assert hash(config) == hash(Example(layers=(1,)))
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, hidden="8").hidden == 8


@pytest.mark.parametrize("config", [Example, *CONFIGS])
def test_round_trip(config):
    made = config()
    assert config.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize("config", CONFIGS)
def test_every_key_is_documented_and_its_default_allowed(config):
    assert list(keys_of(config)) == [field.name for field in dataclasses.fields(config)]
    for name, known in keys_of(config).items():
        assert len(known.limits.doc) >= 10 and known.limits.doc[-1] not in ".,;", name
        assert known.kind.convert(known.default) == known.default and known.allows(known.default), name
        # None, 0 and the like are explained where they stand for something else.
        assert not known.kind.optional or "None" in known.limits.doc, name


@pytest.mark.parametrize("config", [Example, *CONFIGS])
def test_every_bound_is_enforced(config):
    for name, known in keys_of(config).items():
        if known.kind.base not in (int, float):
            continue
        limits, step = known.limits, 1 if known.kind.base is int else 1e-6
        beyond = [limits.above, limits.below, limits.multiple_of and limits.multiple_of + 1]
        beyond += [limits.low - step] if limits.low is not None else []
        beyond += [limits.high + step] if limits.high is not None else []
        for value in (value for value in beyond if value is not None):
            given = value if known.kind.length is None else [value] * (known.kind.length or 1)
            with pytest.raises(ConfigError, match=f"{name} is out of range, given"):
                config(**{name: given})


def test_unsupported_annotations():
    with pytest.raises(TypeError, match="a configuration key cannot be of type"):
        Kind.of(dict[str, int])


def test_did_you_mean():
    assert did_you_mean("LAYRES", ["layers", "rate"]) == "Did you mean 'layers'?"
    assert did_you_mean("zzz", ["layers", "rate"]) == ""


@pytest.mark.parametrize("name", TRANSFORMER_PRESETS)
def test_transformer_presets(name):
    assert TransformerConfig.preset(name, dropout=0.0).dropout == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 7}, "n_heads is out of range, given 7, allowed: a divisor of d_model = 768"),
        ({"d_model": 30, "n_heads": 10}, "n_heads is out of range, given 10, allowed: a number of heads of even width"),
        ({"d_model": 40, "n_heads": 2, "weights": "codebook"}, "d_model is out of range, given 40, allowed: a mult"),
        ({"dropout": 1}, "dropout is out of range, given 1, allowed: 0 to below 1"),
        ({"ffn_activation": "relu"}, "ffn_activation is out of range, given 'relu', allowed: 'silu' or 'gelu'"),
        ({"n_layer": 3}, r"unknown key, given 'n_layer', allowed: .*Did you mean 'n_layers'\?"),
    ],
)
def test_wrong_transformers(values, message):
    with pytest.raises(ConfigError, match=message):
        TransformerConfig.from_dict(values)


def test_unknown_transformer_preset():
    with pytest.raises(ValueError, match="unknown preset, given 'huge', allowed: tiny, small, medium, large"):
        TransformerConfig.preset("huge")
