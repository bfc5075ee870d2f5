"""Generation of bytes: sampling from logits and streaming through a model's recurrent state."""

from __future__ import annotations

from ghost_native.generate.sampling import sample
from ghost_native.generate.stream import StepModel, decode_stream, generate, generate_text

__all__ = ["StepModel", "decode_stream", "generate", "generate_text", "sample"]
