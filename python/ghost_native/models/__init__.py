"""Models built from the layers of :mod:`ghost_native.nn`."""

from ghost_native.models.config import PRESETS, GhostConfig
from ghost_native.models.ghost import Forward, Ghost, GhostV6
from ghost_native.models.state import GhostState

__all__ = ["PRESETS", "Forward", "Ghost", "GhostConfig", "GhostState", "GhostV6"]
