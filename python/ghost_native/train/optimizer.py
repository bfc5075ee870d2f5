"""AdamW for Ghost: decay for matrices only, a rate of their own for codebooks."""

from __future__ import annotations

import mlx.core as mx
from mlx.optimizers import AdamW, MultiOptimizer

from ghost_native.train.config import TrainConfig


class GhostOptimizer(MultiOptimizer):
    """Three AdamW: matrices with weight decay, codebooks at `codebook_rate` times the rate, the rest without decay."""

    def __init__(self, config: TrainConfig) -> None:
        betas = list(config.betas)
        plain = {"learning_rate": config.learning_rate, "betas": betas, "eps": 1e-10, "bias_correction": True}
        self._scales = [1.0, config.codebook_rate, 1.0]
        super().__init__(
            [
                AdamW(**plain, weight_decay=config.weight_decay),
                AdamW(**plain, weight_decay=0.0),
                AdamW(**plain, weight_decay=0.0),
            ],
            [lambda name, g: g.ndim == 2 and not _is_codebook(name), lambda name, _: _is_codebook(name)],
        )

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next update."""
        for optimizer, scale in zip(self.optimizers, self._scales, strict=True):
            optimizer.learning_rate = mx.array(rate * scale)


def _is_codebook(name: str) -> bool:
    return name.endswith("codebook")
