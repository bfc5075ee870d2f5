"""Bits per byte of whole documents."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest

from ghost_native.data.corpora import Document
from ghost_native.models import Ghost, GhostConfig
from ghost_native.train import evaluate

TEXT = [Document("fox", b"the quick brown fox jumps over the lazy dog. " * 60)]


def tiny(**changes) -> Ghost:
    return Ghost(GhostConfig(**{"dim": 32, "num_layers": 2, "stride": 16, **changes}), seed=0)


@pytest.mark.parametrize("chunk", [1, 7, 64, 5000])
def test_evaluation_does_not_depend_on_the_chunk(chunk):
    model = tiny()
    document = [Document("x", TEXT[0].data[:90]), Document("one", b"a"), Document("none", b"")]
    calls = []
    got = evaluate(model, document, chunk=chunk, progress=lambda done, total: calls.append((done, total)))
    tokens = mx.array([list(document[0].data)])
    logits = model(tokens[:, :-1])
    log_p = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    nats = -mx.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).sum().item()
    # The first byte of each document that has one counts 8 bits.
    assert got.bpb == pytest.approx((nats / math.log(2) + 16) / 91, rel=1e-4)
    assert got.num_bytes == 91 and calls[-1] == (90, 91)  # the one-byte document has no chunk
    assert got.mean_depth == 2 and got.skipped_share == 0


def test_nothing_to_evaluate():
    with pytest.raises(ValueError, match=r"\[evaluate\] there is nothing to score"):
        evaluate(tiny(), [Document("none", b"")])
