"""The learning rate over a run."""

from __future__ import annotations

import math


def learning_rate(progress: float, peak: float, final: float, warmup: float) -> float:
    """Linear from 0 to `peak` over the first `warmup` of the run, then along half a cosine down to `final`.

    Loshchilov and Hutter, 2017, arXiv:1608.03983, without restarts.

    Args:
        progress: 0 at the start, 1 at the end.
        peak, final: rates.
        warmup: share of the run, 0 to 1.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return peak * progress / warmup
    done = (progress - warmup) / (1.0 - warmup) if warmup < 1 else 1.0
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * done))
