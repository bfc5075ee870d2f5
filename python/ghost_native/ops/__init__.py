"""The operators: custom MLX primitives with CPU SIMD kernels, differentiable and usable in any MLX project."""

from ghost_native.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from ghost_native.ops.selective_scan import selective_scan, selective_scan_states, selective_state_update

__all__ = [
    "causal_conv1d",
    "causal_conv1d_update",
    "selective_scan",
    "selective_scan_states",
    "selective_state_update",
]
