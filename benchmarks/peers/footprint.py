"""Runs of PyTorch's Ghost for benchmarks.memory, loaded as the benchmarks load it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers.extras import load


def training_run() -> Callable[[], Any]:
    run: Callable[[], Any] = load("torch_ghost").training_run()
    return run


def forward_run() -> Callable[[], Any]:
    run: Callable[[], Any] = load("torch_ghost").forward_run()
    return run
