"""A stand-in for the model: cheap, deterministic, and its logits depend on every byte it has seen."""

from __future__ import annotations

import mlx.core as mx
import numpy as np


class HashModel:
    """Logits are a hash of all bytes so far, whatever pieces they came in; `pieces` records the lengths fed."""

    def __init__(self) -> None:
        self.pieces: list[int] = []

    def init_state(self, batch: int) -> np.ndarray:
        return np.zeros(batch, np.uint64)

    def step(self, tokens: mx.array, state: np.ndarray) -> tuple[mx.array, np.ndarray]:
        self.pieces.append(tokens.shape[1])
        out = []
        for column in np.array(tokens).T:
            state = (state * np.uint64(6364136223846793005) + column.astype(np.uint64) + np.uint64(1)) & np.uint64(
                0xFFFFFFFFFFFF
            )
            out.append([np.random.default_rng(int(s)).normal(0, 3, 256) for s in state])
        return mx.array(np.array(out, np.float32).transpose(1, 0, 2)), state


class CopyModel:
    """Says a fixed text, whatever came before."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def init_state(self, batch: int) -> int:
        return -1

    def step(self, tokens: mx.array, state: int) -> tuple[mx.array, int]:
        logits = np.zeros((1, tokens.shape[1], 256), np.float32)
        logits[0, -1, self.text[(state + 1) % len(self.text)]] = 50
        return mx.array(logits), state + 1
