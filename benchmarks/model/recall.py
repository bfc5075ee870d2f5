"""Exact recall of facts that a trained model never saw: `python -m benchmarks.model.recall CHECKPOINT`."""

from __future__ import annotations

import sys

import mlx.core as mx
import numpy as np

from ghost_native import Ghost
from ghost_native.data.facts import recall
from ghost_native.nn.fact_memory import FactStore

QUESTIONS = 100


def main() -> None:
    model = Ghost.load(sys.argv[1])

    def predict(tokens: np.ndarray, store: FactStore) -> np.ndarray:
        logits = model.forward(mx.array(tokens), table=model.memory.encode(store)).logits
        return np.array(mx.argmax(logits, axis=-1))

    print("facts stored  seen templates  unseen templates  absent, near miss  absent, new key")
    for n in (10, 100, 1000):
        shares = [
            recall(predict, n, questions=QUESTIONS, templates="seen").share,
            recall(predict, n, questions=QUESTIONS).share,
            recall(predict, n, questions=QUESTIONS, absent=1.0, absent_kind="near").share,
            recall(predict, n, questions=QUESTIONS, absent=1.0, absent_kind="new").share,
        ]
        print(f"{n:12}  {shares[0]:14.2f}  {shares[1]:16.2f}  {shares[2]:17.2f}  {shares[3]:15.2f}")


if __name__ == "__main__":
    main()
