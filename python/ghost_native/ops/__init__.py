"""The operators: custom MLX primitives with CPU SIMD kernels, differentiable and usable in any MLX project.

Where the CPU is the default device and no other stream is given, small products, norms, activations, embeddings and
losses of evaluated operands that nothing traces are computed in the call, which takes a fraction of a millisecond at
most: MLX needs longer to hand them to its thread than they take. All else is lazy, as usual.
"""

from ghost_native.ops.adamw import adamw_update, global_norm
from ghost_native.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from ghost_native.ops.codebook_matmul import (
    bucket_sum,
    codebook_assign,
    codebook_dequantize,
    codebook_from_affine,
    codebook_matmul,
    codebook_matmul_latent,
    codebook_quantize,
)
from ghost_native.ops.cross_entropy import cross_entropy
from ghost_native.ops.dense_matmul import dense_matmul
from ghost_native.ops.embedding import embedding
from ghost_native.ops.fact_memory import fact_match, fact_positions, fact_scores
from ghost_native.ops.fact_recurrence import began_ago, decayed_sum, last_events
from ghost_native.ops.gelu import gelu
from ghost_native.ops.rms_norm import add_rms_norm, rms_norm
from ghost_native.ops.selective_scan import selective_scan, selective_scan_states, selective_state_update
from ghost_native.ops.silu import silu
from ghost_native.ops.skip_gather import RoutingPlan, bucketed_capacity, routing_plan, skip_gather, skip_scatter
from ghost_native.ops.sparse_attention import sparse_attention
from ghost_native.ops.tanh import tanh

__all__ = [
    "RoutingPlan",
    "adamw_update",
    "add_rms_norm",
    "began_ago",
    "bucket_sum",
    "bucketed_capacity",
    "causal_conv1d",
    "causal_conv1d_update",
    "codebook_assign",
    "codebook_dequantize",
    "codebook_from_affine",
    "codebook_matmul",
    "codebook_matmul_latent",
    "codebook_quantize",
    "cross_entropy",
    "decayed_sum",
    "dense_matmul",
    "embedding",
    "fact_match",
    "fact_positions",
    "fact_scores",
    "gelu",
    "global_norm",
    "last_events",
    "rms_norm",
    "routing_plan",
    "selective_scan",
    "selective_scan_states",
    "selective_state_update",
    "silu",
    "skip_gather",
    "skip_scatter",
    "sparse_attention",
    "tanh",
]
