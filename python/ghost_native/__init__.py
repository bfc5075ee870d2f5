"""Native kernels for MLX, and Ghost, the byte-level language model they make possible.

Operators take and return ``mlx.core`` arrays; all of :mod:`ghost_native.ops` is exported here, and so are the models.
"""

from __future__ import annotations

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

from ghost_native import ops
from ghost_native._native import (
    composed_form,
    cpu_features,
    measure_bandwidth,
    measure_peak,
    metal_available,
    num_threads,
    set_num_threads,
    tune_allocator,
)
from ghost_native.ops import *  # noqa: F403

if TYPE_CHECKING:
    from ghost_native.models import Ghost, GhostConfig, GhostV6, Transformer, TransformerConfig

__all__ = [
    "Ghost",
    "GhostConfig",
    "GhostV6",
    "Transformer",
    "TransformerConfig",
    "__version__",
    "composed_form",
    "cpu_features",
    "measure_bandwidth",
    "measure_peak",
    "metal_available",
    "num_threads",
    "ops",
    "set_num_threads",
    "tune_allocator",
]
__all__ += ops.__all__


def __getattr__(name: str) -> Any:
    """The models, imported when first asked for: projects that use the operators alone do not pay for them."""
    if name in ("Ghost", "GhostConfig", "GhostV6", "Transformer", "TransformerConfig"):
        from ghost_native import models

        return getattr(models, name)
    raise AttributeError(f"module 'ghost_native' has no attribute {name!r}")
