"""Native kernels for MLX, and Ghost, the byte-level language model they make possible.

Operators take and return ``mlx.core`` arrays and are exported here and from :mod:`ghost_native.ops`.
"""

from __future__ import annotations

__version__ = "0.1.0"

from ghost_native._native import composed_form, cpu_features, num_threads, set_num_threads
from ghost_native.ops import (
    RoutingPlan,
    bucketed_capacity,
    causal_conv1d,
    causal_conv1d_update,
    cross_entropy,
    embedding,
    gelu,
    rms_norm,
    routing_plan,
    skip_gather,
    skip_scatter,
)

__all__ = [
    "RoutingPlan",
    "__version__",
    "bucketed_capacity",
    "causal_conv1d",
    "causal_conv1d_update",
    "composed_form",
    "cpu_features",
    "cross_entropy",
    "embedding",
    "gelu",
    "num_threads",
    "rms_norm",
    "routing_plan",
    "set_num_threads",
    "skip_gather",
    "skip_scatter",
]
