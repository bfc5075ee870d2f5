"""The learning rate over a run."""

from __future__ import annotations


def learning_rate(progress: float, peak: float, *, warmup: float, final_rate: float) -> float:
    """Linear from 0 to `peak` over the first `warmup` of the run, then linear down to `final_rate * peak`.

    Args:
        progress: 0 at the start, 1 at the end.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return peak * progress / warmup
    rest = (1.0 - progress) / (1.0 - warmup) if warmup < 1 else 0.0
    return peak * (final_rate + (1.0 - final_rate) * rest)
