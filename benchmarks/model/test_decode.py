"""Streaming byte by byte: the fused step and `generate`.

Every call feeds BYTES bytes, each evaluated before the next, after a prompt longer than the attention's window. The
logits of all of them are compared with those of the text as a whole.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from benchmarks.conftest import Timed
from benchmarks.workloads import ghost
from ghost_native.generate import generate
from ghost_native.models import Ghost

BYTES, PROMPT = 64, 300
TOLERANCE = 1e-4


def time_stream(
    timed: Timed, model: Ghost, name: str, batch: int = 1, share: float = 1.0, moved: float | None = None
) -> None:
    """`moved`: bytes read a step where they are not those of the weights as held."""
    tokens = ghost.text(batch, PROMPT + BYTES)
    _, state = model.step(tokens[:, :PROMPT], model.init_state(batch))
    pieces = [tokens[:, t : t + 1] for t in range(PROMPT, PROMPT + BYTES)]
    mx.eval(state["cheap"], pieces)

    def run() -> list[mx.array]:
        now, rows = state, []
        for piece in pieces:
            logits, now = model.step(piece, now)
            mx.eval(logits)
            rows.append(logits)
        return rows

    case = ghost.case(name, model, batch, BYTES, share)
    timed(
        run,
        replace(case, moved=(moved or case.moved) * BYTES),
        expected=lambda: model(tokens)[:, PROMPT:],
        tolerance=TOLERANCE,
        select=lambda rows: mx.concatenate(rows, axis=1),
        seconds=1.0,
    )


@pytest.mark.parametrize("weights", ["packed", "latent", "float"])
def test_decode(timed: Timed, weights: str) -> None:
    model = ghost.build(weights="float") if weights == "float" else ghost.build()
    if weights == "packed":
        model.pack()
    name = "decode" if weights == "packed" else f"decode, {weights} weights"
    # Latent weights are packed on demand, not in every step.
    time_stream(timed, model, name, moved=float(ghost.build().pack().nbytes()) if weights == "latent" else None)


def test_decode_batch(timed: Timed) -> None:
    time_stream(timed, ghost.build().pack(), "decode, 8 streams", batch=8)


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_decode_routed(timed: Timed, share: float) -> None:
    time_stream(timed, ghost.build(share).pack(), f"decode, {100 * share:.0f} % routed", share=share)


@pytest.mark.parametrize("facts", [10, 1000])
def test_decode_with_facts(timed: Timed, facts: int) -> None:
    model = ghost.build().pack()
    for i in range(facts):
        model.store_fact(f"key number {i}", f"value {i}")
    time_stream(timed, model, f"decode, {facts} facts")


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.8, 0.9)])
def test_generate(timed: Timed, temperature: float, top_p: float) -> None:
    """With sampling; checked against sampling from the logits of the whole text, step by step."""
    model = ghost.build().pack()

    def sampled(source: Any) -> np.ndarray:
        return np.array(list(generate(source, b"\n", max_bytes=BYTES, temperature=temperature, top_p=top_p, seed=1)))

    timed(
        lambda: sampled(model),
        ghost.case(f"generate, temperature {temperature:g}, top_p {top_p:g}", model, 1, BYTES),
        expected=lambda: sampled(_Slow(model)),
        tolerance=0.0,
        evaluate=None,
        seconds=1.0,
    )


class _Slow:
    """The same model without the fused step: every logit from the text as a whole."""

    def __init__(self, model: Ghost) -> None:
        self._model = model

    def init_state(self, batch: int) -> mx.array:
        return mx.zeros((batch, 0), dtype=mx.int32)

    def step(self, tokens: mx.array, state: mx.array) -> tuple[mx.array, mx.array]:
        text = mx.concatenate([state, tokens.astype(mx.int32)], axis=1)
        return self._model(text)[:, -tokens.shape[1] :], text
