"""What a model says after a prompt, token by token, where sampling needs none of the care of `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np


def continuation(
    model: Any, prompt: np.ndarray, choose: Callable[[np.ndarray], int], num_tokens: int, limit: int
) -> Iterator[int]:
    """Up to `limit` tokens after `prompt` (n >= 1,) int32; nothing is computed for one that is not asked for.

    Args:
        model: a Ghost or a transformer.
        prompt: what goes before.
        choose: the next token out of its logits (num_tokens,) float32.
        num_tokens: of the tokenizer, which may have fewer than the model.
        limit: the most tokens.
    """
    fed, state = mx.array(prompt)[None], model.init_state(1)
    for _ in range(limit):
        logits, state = model.step(fed, state)
        token = choose(np.array(logits[0, -1].astype(mx.float32))[:num_tokens])
        yield token
        fed = mx.array([[token]])
