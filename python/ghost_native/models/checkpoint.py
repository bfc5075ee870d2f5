"""One .safetensors file per model: weights, and as metadata the configuration and, of Ghost, the facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ghost_native.models.config import GhostConfig
from ghost_native.models.transformer_config import TransformerConfig
from ghost_native.models.weights_file import Metadata, put_weights, read_weights, write_weights
from ghost_native.nn.fact_store import FactStore

if TYPE_CHECKING:
    from ghost_native.models.ghost import Ghost
    from ghost_native.models.transformer import Transformer

FORMAT = "ghost_native.ghost.v1"
TRANSFORMER_FORMAT = "ghost_native.transformer.v1"

G = TypeVar("G", bound="Ghost")
T = TypeVar("T", bound="Transformer")


def save_model(model: Ghost, path: Path) -> None:
    """Atomically: the file at `path` is always whole."""
    metadata = _metadata(FORMAT, model) | {"facts": json.dumps(model.fact_store.to_list())}
    write_weights(path, model.weights(), metadata)


def load_model(cls: type[G], path: Path) -> G:
    weights, metadata = read_weights(path, "Ghost.load")
    values = _values(metadata, ("config", "packed", "facts"), path, "Ghost.load", "Ghost checkpoint", FORMAT)
    try:
        config, facts = GhostConfig.from_dict(values["config"]), values["facts"]
    except (TypeError, ValueError) as error:
        raise ValueError(f"[Ghost.load] {path} has broken metadata: {error}.") from error
    model = cls(config)
    limits = {"max_key": model.config.max_key, "max_value": model.config.max_value}
    if values["packed"]:
        model.pack()
    put_weights(model, weights, path, "Ghost.load")
    for key, value in FactStore.from_list(facts, **limits).facts().items():
        model.store_fact(key, value)
    return model


def save_transformer(model: Transformer, path: Path) -> None:
    """Atomically: the file at `path` is always whole."""
    metadata = _metadata(TRANSFORMER_FORMAT, model) | {"context": json.dumps(model.context)}
    write_weights(path, model.weights(), metadata)


def load_transformer(cls: type[T], path: Path) -> T:
    name = "Transformer.load"
    weights, metadata = read_weights(path, name)
    values = _values(metadata, ("config", "packed"), path, name, "checkpoint of a transformer", TRANSFORMER_FORMAT)
    try:
        model = cls(TransformerConfig.from_dict(values["config"]))
        if "context" in metadata:  # files of earlier versions have none
            model.context = int(metadata["context"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"[{name}] {path} has broken metadata: {error}.") from error
    if values["packed"]:
        model.pack()
    put_weights(model, weights, path, name)
    model.eval()
    return model


def _metadata(file_format: str, model: Ghost | Transformer) -> Metadata:
    return {
        "format": file_format,
        "config": json.dumps(model.config.to_dict()),
        "packed": json.dumps(model.is_packed),
    }


def _values(metadata: Metadata, keys: tuple[str, ...], path: Path, name: str, what: str, fmt: str) -> dict[str, Any]:
    given = metadata.get("format")
    if given != fmt:
        raise ValueError(f"[{name}] {path} is no {what}, given format {given!r}, allowed: {fmt!r}.")
    try:
        return {key: json.loads(metadata[key]) for key in keys}
    except (KeyError, ValueError) as error:
        raise ValueError(f"[{name}] {path} has broken metadata: {error}.") from error
