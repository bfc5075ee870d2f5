"""Files of weights: written whole or not at all, and read with errors that say what is wrong. Nothing is unpickled."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

Metadata = dict[str, str]


def replace_whole(files: Mapping[Path, Callable[[Path], None]]) -> None:
    """Have every function write a temporary file beside its path; when all are there, rename them, the last one last.

    Until then nothing has changed: when writing fails, by a full disk for instance, all paths stay as they were. A
    single file is always whole, the old one or the new. Of several the last says that the others belong together: it is
    gone while they are being renamed.
    """
    temporaries: list[Path] = []
    try:
        for path, write in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
            os.close(handle)
            temporary = Path(name)
            temporaries.append(temporary)
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
        if len(files) > 1:
            list(files)[-1].unlink(missing_ok=True)
        for path, temporary in zip(files, temporaries, strict=True):
            temporary.replace(path)
    except BaseException:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        raise


def write_weights(path: Path, weights: dict[str, mx.array], metadata: Metadata) -> None:
    """A .safetensors file at path, atomically."""
    mx.eval(weights)
    replace_whole({path: lambda temporary: mx.save_safetensors(str(temporary), weights, metadata)})


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
