"""Models built from the layers of :mod:`ghost_native.nn`."""

from ghost_native.models.config import PRESETS, GhostConfig
from ghost_native.models.export import export_model, import_model, load_model
from ghost_native.models.ghost import Forward, Ghost, GhostV6
from ghost_native.models.state import GhostState
from ghost_native.models.transformer import Transformer, TransformerForward, TransformerState
from ghost_native.models.transformer_config import TRANSFORMER_PRESETS, TransformerConfig

__all__ = [
    "PRESETS",
    "TRANSFORMER_PRESETS",
    "Forward",
    "Ghost",
    "GhostConfig",
    "GhostState",
    "GhostV6",
    "Transformer",
    "TransformerConfig",
    "TransformerForward",
    "TransformerState",
    "export_model",
    "import_model",
    "load_model",
]
