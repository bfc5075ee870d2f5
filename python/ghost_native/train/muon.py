"""Muon with decoupled weight decay, its products on our own kernel."""

from __future__ import annotations

import mlx.core as mx
from mlx import optimizers

from ghost_native import ops

_A, _B, _C = 3.4445, -4.7750, 2.0315  # of the quintic iteration, from the source below


def orthogonalize(x: mx.array, steps: int = 5) -> mx.array:
    """A matrix with about the singular vectors of x (rows, columns) and singular values near 1, between 0.7 and 1.2.

    Newton-Schulz iteration as in Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (mx.linalg.norm(x) + 1e-7)
    for _ in range(steps):
        gram = ops.dense_matmul(x, x)
        # Both are symmetric, so the product with a transposed weight is the product.
        polynomial = _B * gram + _C * ops.dense_matmul(gram, gram)
        x = _A * x + ops.dense_matmul(polynomial, x.T)
    return x.T if tall else x


class Muon(optimizers.Muon):
    """MLX's Muon but for two things: weights decay apart from the gradient, and the iteration runs on `dense_matmul`.

    MLX adds the decay to the gradient, where orthogonalization takes away its size; its products are those of the BLAS
    it was built with.
    """

    def _zeropower_via_newtonschulz5(self, X: mx.array, steps: int) -> mx.array:
        return orthogonalize(X, steps)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        decay, self.weight_decay = self.weight_decay, 0.0
        try:
            decayed = parameter * (1.0 - self.learning_rate * decay) if decay else parameter
            updated: mx.array = super().apply_single(gradient, decayed, state)
            return updated
        finally:
            self.weight_decay = decay
