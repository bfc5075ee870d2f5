"""Files of weights: written whole or not at all, and read with errors that say what is wrong. Nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from ghost_native.models.atomic import atomic_file

Metadata = dict[str, str]


def write_weights(path: Path, weights: dict[str, mx.array], metadata: Metadata) -> None:
    """A .safetensors file at path, atomically."""
    mx.eval(weights)
    with atomic_file(path, suffix=".safetensors") as temporary:  # MLX adds the ending where it is missing
        mx.save_safetensors(str(temporary), weights, metadata)


def read_weights(path: Path, name: str) -> tuple[dict[str, mx.array], Metadata]:
    """Weights, read when evaluated, and metadata. `name` is whom errors speak of.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"[{name}] no such checkpoint: {path}.")
    try:
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
    except Exception as error:
        raise ValueError(f"[{name}] {path} is not a whole safetensors file: {error}.") from error
    return loaded[0], loaded[1]


def put_weights(model: nn.Module, weights: dict[str, mx.array], path: Path, name: str) -> None:
    """Make `weights` those of the model and evaluate them.

    Raises:
        ValueError: names, shapes or dtypes are not the model's, or the file at path ends too early.
    """
    held: Any = tree_flatten(model.parameters())
    expected = {k: (v.shape, v.dtype) for k, v in held}
    given = {k: (v.shape, v.dtype) for k, v in weights.items()}
    for key in sorted(expected.keys() | given.keys()):
        if expected.get(key) != given.get(key):
            raise ValueError(
                f"[{name}] {path} does not fit its configuration: weight {key!r}, given {given.get(key)}, "
                f"allowed: {expected.get(key)}."
            )
    model.load_weights(list(weights.items()))
    try:
        mx.eval(model.parameters())
    except Exception as error:
        raise ValueError(f"[{name}] {path} cannot be read to its end: {error}.") from error
