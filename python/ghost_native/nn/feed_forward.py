"""The feed-forward block."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from ghost_native import ops
from ghost_native.nn.linear import CodebookLinear, WeightMode


class FeedForward(nn.Module):
    """``down(gelu(up(x)))`` on (..., dim), `mult` times wider inside."""

    def __init__(self, dim: int, mult: int = 4, *, mode: WeightMode = "codebook", num_layers: int = 1) -> None:
        super().__init__()
        self.up = CodebookLinear(dim, mult * dim, mode=mode)
        self.down = CodebookLinear(mult * dim, dim, mode=mode, scale=(2 * num_layers * mult * dim) ** -0.5)

    def __call__(self, x: mx.array) -> mx.array:
        down: mx.array = self.down(ops.gelu(self.up(x)))
        return down
