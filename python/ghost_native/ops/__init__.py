"""The operators: custom MLX primitives with CPU SIMD kernels, differentiable and usable in any MLX project."""

from ghost_native.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from ghost_native.ops.cross_entropy import cross_entropy
from ghost_native.ops.embedding import embedding
from ghost_native.ops.gelu import gelu
from ghost_native.ops.rms_norm import rms_norm
from ghost_native.ops.skip_gather import RoutingPlan, bucketed_capacity, routing_plan, skip_gather, skip_scatter

__all__ = [
    "RoutingPlan",
    "bucketed_capacity",
    "causal_conv1d",
    "causal_conv1d_update",
    "cross_entropy",
    "embedding",
    "gelu",
    "rms_norm",
    "routing_plan",
    "skip_gather",
    "skip_scatter",
]
