"""Bits per byte over whole documents."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ghost_native import ops
from ghost_native.data.corpora import Document


class Encoder(Protocol):
    """A tokenizer, as far as scoring knows it."""

    vocab_size: int

    def encode(self, text: str | bytes) -> np.ndarray: ...


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts documents.

    Attributes:
        bpb: bits per byte over all bytes; the first token of a document, which nothing precedes, counts as one of
            equally likely ones, a byte as 8 bits.
        num_bytes: bytes scored.
        seconds: wall-clock time.
        mean_depth: layers the average byte went through.
        skipped_share: share of byte-layer pairs that were skipped, and so cost no layer computation.
    """

    bpb: float
    num_bytes: int
    seconds: float
    mean_depth: float
    skipped_share: float

    @property
    def bytes_per_second(self) -> float:
        return self.num_bytes / max(self.seconds, 1e-9)


def evaluate(
    model: Any,
    documents: Sequence[Document],
    *,
    tokenizer: Encoder | None = None,
    chunk: int = 1024,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score documents one after another, the state carried through each.

    Args:
        model: packed or not; the stored facts are read.
        documents: whole documents.
        tokenizer: of the model; None for one that reads bytes.
        chunk: tokens scored at once; it changes memory and speed, not the result.
        progress: called with (tokens done, tokens in all) after every chunk.

    Raises:
        ValueError: no bytes to score, or chunk below 1.
    """
    total = sum(len(d) for d in documents)
    if total == 0:
        raise ValueError("[evaluate] there is nothing to score: the documents hold no bytes.")
    if chunk < 1:
        raise ValueError(f"[evaluate] chunk is out of range, given {chunk}, allowed: at least 1.")
    begin = time.perf_counter()
    texts = [d.array() if tokenizer is None else tokenizer.encode(bytes(d.data)) for d in documents]
    first = math.log(256 if tokenizer is None else tokenizer.vocab_size)
    num_tokens = sum(len(text) for text in texts)
    nats, layer_bytes, fed, done = 0.0, 0.0, 0, 0
    for text in texts:
        data = mx.array(text).astype(mx.int32)
        nats += first if len(text) else 0.0
        state = model.init_state(1)
        for at in range(0, len(text) - 1, chunk):
            end = min(at + chunk, len(text) - 1)
            out = model.forward(data[None, at:end], state)
            state = out.state
            loss = ops.cross_entropy(out.logits, data[None, at + 1 : end + 1]).sum()
            mx.eval(loss, state)
            nats += np.array(loss).item()
            layer_bytes += sum(out.routed) * (end - at)
            fed += end - at
            if progress is not None:
                progress(done + end + 1, num_tokens)
        done += len(text)
    depth = layer_bytes / fed if fed else float(len(model.layers))
    return Evaluation(
        bpb=nats / math.log(2) / total,
        num_bytes=total,
        seconds=time.perf_counter() - begin,
        mean_depth=depth,
        skipped_share=1 - depth / len(model.layers),
    )
