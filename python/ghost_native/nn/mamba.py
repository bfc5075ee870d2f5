"""The Mamba block: a gated selective state-space layer (Gu and Dao, 2023, arXiv:2312.00752)."""

from __future__ import annotations

import math
from typing import TypedDict

import mlx.core as mx
from mlx import nn

from ghost_native import ops
from ghost_native.nn.linear import CodebookLinear, WeightMode


class MambaState(TypedDict):
    """What one block carries between calls, float32, of fixed size.

    conv (batch, width - 1, inner): the last inputs of the convolution; ssm (batch, inner, dstate): the scan's state.
    """

    conv: mx.array
    ssm: mx.array


class Mamba(nn.Module):
    """in_proj -> causal_conv1d (silu) -> x_proj -> dt_proj -> selective_scan, gated by z -> out_proj.

    Args:
        dim: width of input and output.
        dstate: states per channel.
        expand: inner width is ``expand * dim``.
        conv_width: width of the causal convolution, 2 to 4.
        dt_rank: rank of the step-size projection; ``max(16, dim // 16)`` by default.
        mode: weight mode of the projections.
        num_layers: depth of the model, which scales the initial output projection.
    """

    def __init__(
        self,
        dim: int,
        *,
        dstate: int = 16,
        expand: int = 2,
        conv_width: int = 4,
        dt_rank: int | None = None,
        mode: WeightMode = "codebook",
        num_layers: int = 1,
    ) -> None:
        super().__init__()
        inner = expand * dim
        self.dstate, self.inner = dstate, inner
        self.dt_rank = max(16, dim // 16) if dt_rank is None else dt_rank
        # Two matrices rather than one of twice the rows: the halves are used apart and would have to be copied.
        self.in_proj_x = CodebookLinear(dim, inner, mode=mode)
        self.in_proj_z = CodebookLinear(dim, inner, mode=mode)
        self.conv_weight = mx.random.normal((inner, conv_width)) * 0.4
        self.conv_bias = mx.zeros((inner,))
        self.x_proj = CodebookLinear(inner, self.dt_rank + 2 * dstate, mode=mode)
        self.dt_proj = CodebookLinear(self.dt_rank, inner, mode=mode, scale=0.5 * self.dt_rank**-0.5)
        # Step sizes start log-uniform in [0.001, 0.1]; the bias is the softplus inverse of that.
        dt = mx.exp(mx.random.uniform(math.log(1e-3), math.log(1e-1), (inner,)))
        self.dt_bias = dt + mx.log(-mx.expm1(-dt))
        self.A_log = mx.broadcast_to(mx.log(mx.arange(1, dstate + 1, dtype=mx.float32)), (inner, dstate)) + 0.0
        self.D = mx.ones((inner,))
        self.out_proj = CodebookLinear(inner, dim, mode=mode, scale=(2 * num_layers * inner) ** -0.5)

    def init_state(self, batch: int) -> MambaState:
        keep = self.conv_weight.shape[1] - 1
        return MambaState(conv=mx.zeros((batch, keep, self.inner)), ssm=mx.zeros((batch, self.inner, self.dstate)))

    def __call__(
        self, x: mx.array, state: MambaState | None = None, cu_seqlens: mx.array | None = None
    ) -> tuple[mx.array, MambaState]:
        """x (batch, seqlen, dim), or (total, dim) with cu_seqlens (batch + 1,). Returns y like x, and the new state."""
        u, conv = ops.causal_conv1d(
            self.in_proj_x(x),
            self.conv_weight,
            self.conv_bias,
            activation="silu",
            initial_state=None if state is None else state["conv"],
            cu_seqlens=cu_seqlens,
            return_last_state=True,
        )
        dt, B, C = mx.split(self.x_proj(u), [self.dt_rank, self.dt_rank + self.dstate], axis=-1)
        y, ssm = ops.selective_scan(
            u,
            self.dt_proj(dt),
            -mx.exp(self.A_log),
            B,
            C,
            self.D,
            self.in_proj_z(x),
            delta_bias=self.dt_bias,
            delta_softplus=True,
            initial_state=None if state is None else state["ssm"],
            cu_seqlens=cu_seqlens,
            return_last_state=True,
        )
        return self.out_proj(y), MambaState(conv=conv, ssm=ssm)
