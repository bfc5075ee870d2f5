"""One .safetensors file per model: weights, and as metadata the configuration and the facts. Nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mlx.core as mx

from ghost_native.models.atomic import atomic_file
from ghost_native.models.config import GhostConfig
from ghost_native.nn.fact_store import FactStore

if TYPE_CHECKING:
    from ghost_native.models.ghost import Ghost

FORMAT = "ghost_native.ghost.v1"

G = TypeVar("G", bound="Ghost")


def save_model(model: Ghost, path: Path) -> None:
    """The file at `path` is always whole: see `atomic_file`."""
    metadata = {
        "format": FORMAT,
        "config": json.dumps(model.config.to_dict()),
        "facts": json.dumps(model.fact_store.to_list()),
        "packed": json.dumps(model.is_packed),
    }
    weights = model.weights()
    mx.eval(weights)
    with atomic_file(path, suffix=".safetensors") as temporary:
        mx.save_safetensors(str(temporary), weights, metadata)


def load_model(cls: type[G], path: Path) -> G:
    if not path.is_file():
        raise FileNotFoundError(f"[Ghost.load] no such checkpoint: {path}.")
    try:
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
        weights: dict[str, mx.array] = loaded[0]
        metadata: dict[str, str] = loaded[1]
    except Exception as error:
        raise ValueError(f"[Ghost.load] {path} is not a whole safetensors file: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"[Ghost.load] {path} is no Ghost checkpoint, given format {metadata.get('format')!r}, allowed: {FORMAT!r}."
        )
    try:
        config = GhostConfig.from_dict(json.loads(metadata["config"]))
        packed, facts = bool(json.loads(metadata["packed"])), json.loads(metadata["facts"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"[Ghost.load] {path} has broken metadata: {error}.") from error
    model = cls(config)
    limits = {"max_key": model.config.max_key, "max_value": model.config.max_value}
    if packed:
        model.pack()
    expected = {k: (v.shape, v.dtype) for k, v in model.weights().items()}
    given = {k: (v.shape, v.dtype) for k, v in weights.items()}
    for name in sorted(expected.keys() | given.keys()):
        if expected.get(name) != given.get(name):
            raise ValueError(
                f"[Ghost.load] {path} does not fit its configuration: weight {name!r}, given {given.get(name)}, "
                f"allowed: {expected.get(name)}."
            )
    model.load_weights(list(weights.items()))
    try:
        mx.eval(model.parameters())
    except Exception as error:
        raise ValueError(f"[Ghost.load] {path} cannot be read to its end: {error}.") from error
    for key, value in FactStore.from_list(facts, **limits).facts().items():
        model.store_fact(key, value)
    return model
