"""Root-mean-square normalization."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from ghost_native import ops

EPS = 1e-5


class RMSNorm(nn.Module):
    """``x / rms(x) * weight`` over the last dimension (Zhang and Sennrich, 2019, arXiv:1910.07467), fused on CPUs."""

    def __init__(self, dim: int, eps: float = EPS) -> None:
        super().__init__()
        self.weight = mx.ones((dim,))
        self._eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return ops.rms_norm(x, self.weight, self._eps)

    def add(self, x: mx.array, residual: mx.array | None) -> tuple[mx.array, mx.array]:
        """``h = x + residual``, or x without one, and the norm of h."""
        if residual is None:
            return x, self(x)
        return ops.add_rms_norm(x, residual, self.weight, self._eps)
