"""What a stream through Ghost carries between calls."""

from __future__ import annotations

from typing import TypedDict

import mlx.core as mx

from ghost_native.nn.attention import AttentionState
from ghost_native.nn.fact_memory import FactMemoryState, FactTable
from ghost_native.nn.mamba import MambaState
from ghost_native.nn.tokenizer import TokenizerState


class LayerState(TypedDict, total=False):
    mamba: MambaState
    attention: AttentionState


class MemoryStream(TypedDict):
    """The facts a stream reads from, and where it is in addressing them."""

    version: int
    table: FactTable
    state: FactMemoryState


class GhostState(TypedDict):
    """What a stream carries between calls of :meth:`Ghost.step`. Treat it as opaque; old states stay usable.

    cheap (batch, 1, 256) are the cheap predictor's logits for the next byte, of which its surprise is read.
    """

    tokenizer: TokenizerState
    cheap: mx.array
    layers: list[LayerState]
    memory: MemoryStream | None
