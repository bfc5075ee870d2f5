"""The feed-forward block of transformers: SwiGLU, or GELU without a gate."""

from __future__ import annotations

from typing import Literal

import mlx.core as mx
from mlx import nn

from ghost_native import ops
from ghost_native.nn.linear import CodebookLinear, WeightMode

FeedForwardActivation = Literal["silu", "gelu"]


def silu(x: mx.array) -> mx.array:
    """``x * sigmoid(x)`` of x (batch, seqlen, dim), in x's dtype. Differentiable."""
    if mx.default_device() != mx.cpu:
        return x * mx.sigmoid(x)
    # MLX's exponential takes some 30 ns a value on x86 CPUs. The convolution has a fast one and, given a filter that
    # only looks at the current row, is nothing but its activation.
    now = mx.broadcast_to(mx.array([0.0, 1.0]), (x.shape[-1], 2))
    return ops.causal_conv1d(x, now, activation="silu")


class GatedFeedForward(nn.Module):
    """``down(silu(gate(x)) * up(x))`` on (batch, seqlen, dim), or ``down(gelu(up(x)))``.

    Args:
        dim: width of input and output.
        hidden: inner width.
        activation: "silu" for the gated form (SwiGLU; Shazeer, 2020, arXiv:2002.05202), "gelu" for the plain one.
        mode: weight mode of the products.
        out_scale: standard deviation of the initial weights of ``down``, in multiples of ``hidden ** -0.5``.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        activation: FeedForwardActivation = "silu",
        mode: WeightMode = "codebook",
        out_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if activation == "silu":
            self.gate = CodebookLinear(dim, hidden, mode=mode)
        self.up = CodebookLinear(dim, hidden, mode=mode)
        self.down = CodebookLinear(hidden, dim, mode=mode, scale=out_scale * hidden**-0.5)

    def __call__(self, x: mx.array) -> mx.array:
        inner = silu(self.gate(x)) * self.up(x) if "gate" in self else ops.gelu(self.up(x))
        down: mx.array = self.down(inner)
        return down
