"""Layers: 2-bit linear, Mamba, the state-space tokenizer, router, sparse and causal attention, fact memory."""

from ghost_native.nn.attention import SparseAttention
from ghost_native.nn.causal_attention import CausalAttention
from ghost_native.nn.fact_memory import FactMemory, FactStore
from ghost_native.nn.feed_forward import FeedForward
from ghost_native.nn.gated_feed_forward import GatedFeedForward
from ghost_native.nn.linear import CodebookLinear, Linear
from ghost_native.nn.mamba import Mamba
from ghost_native.nn.norm import RMSNorm
from ghost_native.nn.router import Route, Router
from ghost_native.nn.tokenizer import StateSpaceTokenizer

__all__ = [
    "CausalAttention",
    "CodebookLinear",
    "FactMemory",
    "FactStore",
    "FeedForward",
    "GatedFeedForward",
    "Linear",
    "Mamba",
    "RMSNorm",
    "Route",
    "Router",
    "SparseAttention",
    "StateSpaceTokenizer",
]
