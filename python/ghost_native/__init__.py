"""Native kernels for MLX, and Ghost, the byte-level language model they make possible.

Operators take and return ``mlx.core`` arrays and are exported here and from :mod:`ghost_native.ops`.
"""

from __future__ import annotations

__version__ = "0.1.0"

from ghost_native._native import composed_form, cpu_features, num_threads, set_num_threads
from ghost_native.ops import (
    causal_conv1d,
    causal_conv1d_update,
    selective_scan,
    selective_scan_states,
    selective_state_update,
)

__all__ = [
    "__version__",
    "causal_conv1d",
    "causal_conv1d_update",
    "composed_form",
    "cpu_features",
    "num_threads",
    "selective_scan",
    "selective_scan_states",
    "selective_state_update",
    "set_num_threads",
]
