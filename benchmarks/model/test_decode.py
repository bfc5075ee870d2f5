"""Streaming byte by byte: the fused step and `generate`, per byte of each stream.

Every round feeds BYTES bytes one after the other, each evaluated before the next; bytes/s are those of the fastest
round. The prompt is longer than the window, so that attention has all of its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import ghost_native as gn
from benchmarks.model.test_ghost import build
from ghost_native.generate import generate
from ghost_native.models import Ghost

BYTES = 64
PROMPT = 300


def check(model: Ghost) -> None:
    """Bytes one by one give the logits of the whole text."""
    tokens = mx.array(np.random.default_rng(0).integers(0, 256, (1, 20)))
    state, pieces = model.init_state(1), []
    for t in range(20):
        logits, state = model.step(tokens[:, t : t + 1], state)
        pieces.append(np.array(logits))
    whole = np.array(model(tokens))
    assert np.sqrt(np.mean((np.concatenate(pieces, 1) - whole) ** 2) / np.mean(whole**2)) < 1e-5


def per_byte(benchmark: Any, run: Callable[[], None], streams: int = 1) -> None:
    run()
    benchmark._max_time, benchmark._min_rounds = 2.0, 5
    benchmark(run)
    seconds = benchmark.stats.stats.min / BYTES
    benchmark.extra_info["us per step"] = round(seconds * 1e6, 1)
    benchmark.extra_info["bytes/s"] = round(streams / seconds)


def stream(benchmark: Any, model: Ghost, batch: int = 1) -> None:
    check(model)
    tokens = mx.array(np.random.default_rng(1).integers(0, 256, (batch, PROMPT)))
    _, state = model.step(tokens, model.init_state(batch))
    mx.eval(state["cheap"])
    bytes_ = [tokens[:, t : t + 1] for t in range(BYTES)]
    mx.eval(bytes_)
    held = [state]

    def run() -> None:
        for byte in bytes_:
            logits, held[0] = model.step(byte, held[0])
            mx.eval(logits)

    per_byte(benchmark, run, batch)


@pytest.mark.parametrize("weights", ["packed", "latent", "float"])
def test_step_by_weights(benchmark: Any, weights: str) -> None:
    model = build(weights="float") if weights == "float" else build()
    stream(benchmark, model.pack() if weights == "packed" else model)


@pytest.mark.parametrize("batch", [1, 8])
def test_step_by_batch(benchmark: Any, batch: int) -> None:
    stream(benchmark, build().pack(), batch)


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_step_routed(benchmark: Any, share: float) -> None:
    stream(benchmark, build(share).pack())


@pytest.mark.parametrize("facts", [10, 1000])
def test_step_with_facts(benchmark: Any, facts: int) -> None:
    model = build().pack()
    for i in range(facts):
        model.store_fact(f"key number {i}", f"value {i}")
    stream(benchmark, model)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dim", [256, 512])
def test_step_by_threads(benchmark: Any, dim: int, threads: int) -> None:
    before = gn.num_threads()
    gn.set_num_threads(threads)
    try:
        stream(benchmark, build(dim=dim).pack())
    finally:
        gn.set_num_threads(before)


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.8, 0.9)])
def test_generate(benchmark: Any, temperature: float, top_p: float) -> None:
    """With its own prompt of one byte."""
    model = build().pack()
    check(model)

    def run() -> None:
        sampled = generate(model, b"\n", max_bytes=BYTES, temperature=temperature, top_p=top_p, seed=1)
        assert len(bytes(sampled)) == BYTES

    per_byte(benchmark, run)
