"""Cross-entropy of logits with integer targets."""

from __future__ import annotations

import mlx.core as mx

from ghost_native import _ext


def cross_entropy(logits: mx.array, targets: mx.array, *, stream: mx.Stream | mx.Device | None = None) -> mx.array:
    """``logsumexp(logits) - logits[target]`` of every row, in nats.

    Args:
        logits: ``(..., classes)``, at least one class; float32, float16 or bfloat16.
        targets: ``(...)``, any integer dtype. A row whose target is not in 0 to classes - 1, such as -1 for padding,
            has loss 0 and gradient 0: divide the sum of losses by the number of rows that count.
        stream: where to run.

    Returns:
        ``(...)`` float32 whatever the dtype of logits.

    Differentiable in logits. The gradient starts from the logits and one number per row; no probabilities are kept.

    Raises:
        ValueError: on a wrong shape or dtype.
    """
    loss: mx.array = _ext.cross_entropy(logits, targets, stream=stream)
    return loss
