"""Rivals are optional: each module that needs one is loaded through here."""

from __future__ import annotations

import importlib
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
        return importlib.import_module(f"benchmarks.peers.{module}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        pytest.skip(f"{missing} is not installed: pip install '.[{EXTRAS[missing]}]'")
