"""The operators: custom MLX primitives with CPU SIMD kernels, differentiable and usable in any MLX project."""

from ghost_native.ops.causal_conv1d import causal_conv1d, causal_conv1d_update

__all__ = [
    "causal_conv1d",
    "causal_conv1d_update",
]
