"""Rivals are optional: each module that needs one is loaded through here."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

# Which extra of pyproject.toml brings what.
EXTRAS = {
    "torch": "peers-torch",
    "mambapy": "peers-torch",
    "jax": "peers-jax",
    "onnx": "peers-onnxruntime",
    "onnxruntime": "peers-onnxruntime",
    "mlx_recurrence": "peers-mlx",
    "threadpoolctl": "peers-numpy",
}


def load(module: str) -> ModuleType:
    """A module of this folder; the benchmark is skipped, naming the extra, when what it imports is not installed."""
    try:
        with own_symbols():
            return importlib.import_module(f"benchmarks.peers.{module}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        pytest.skip(f"{missing} is not installed: pip install '.[{EXTRAS[missing]}]'")


@contextmanager
def own_symbols() -> Iterator[None]:
    """Libraries loaded inside keep their own BLAS when OpenBLAS is preloaded for MLX.

    On OpenBLAS, PyTorch's many small products take twice as long as on the MKL that it comes with.
    """
    if not hasattr(os, "RTLD_DEEPBIND"):
        yield
        return
    before = sys.getdlopenflags()
    sys.setdlopenflags(before | os.RTLD_DEEPBIND)
    try:
        yield
    finally:
        sys.setdlopenflags(before)
