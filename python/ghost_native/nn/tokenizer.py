"""StateSpaceTokenizer: bytes to vectors, and where words begin, from the speed of a small learned state."""

from __future__ import annotations

from typing import TypedDict

import mlx.core as mx
from mlx import nn

from ghost_native import ops
from ghost_native.nn.linear import Linear


class TokenizerState(TypedDict):
    """conv (batch, width - 1, dim): the last embeddings; ssm (batch, channels, 1), last (batch, 1, channels)."""

    conv: mx.array
    ssm: mx.array
    last: mx.array


class StateSpaceTokenizer(nn.Module):
    """embed -> causal_conv1d -> state s -> velocity |s_t - s_{t-1}| -> boundary_prob; output h * (1 + boundary_prob).

    The state is a bank of leaky averages of a projection of h, one learned time constant per channel, so its velocity
    is high where the text changes character. Causal: boundary_prob[t] depends on bytes up to t.

    Args:
        dim: width of the output.
        vocab: byte values plus specials.
        channels: width of the small state.
    """

    def __init__(self, dim: int, vocab: int = 256, channels: int = 32, conv_width: int = 4) -> None:
        super().__init__()
        self.vocab, self.channels = vocab, channels
        self.embedding = mx.random.normal((vocab, dim)) * 0.5
        self.conv_weight = mx.random.normal((dim, conv_width)) * 0.5
        self.conv_bias = mx.zeros((dim,))
        self.project = Linear(dim, channels)
        # Time constants from about 1.5 to 50 bytes.
        self.rate = mx.linspace(0.0, -4.0, channels)
        self.boundary_weight = mx.full((channels,), 4.0 / channels)
        self.boundary_bias = mx.array(-2.0)

    def init_state(self, batch: int) -> TokenizerState:
        dim, width = self.conv_weight.shape
        return TokenizerState(
            conv=mx.zeros((batch, width - 1, dim)),
            ssm=mx.zeros((batch, self.channels, 1)),
            last=mx.zeros((batch, 1, self.channels)),
        )

    def __call__(
        self, tokens: mx.array, state: TokenizerState | None = None
    ) -> tuple[mx.array, mx.array, TokenizerState]:
        """tokens (batch, seqlen) integer.

        Returns:
            h (batch, seqlen, dim), boundary_logit (batch, seqlen) and the new state.
        """
        batch, seqlen = tokens.shape
        state = self.init_state(batch) if state is None else state
        embedded = ops.embedding(self.embedding, tokens)
        mixed, conv = ops.causal_conv1d(
            embedded,
            self.conv_weight,
            self.conv_bias,
            activation="silu",
            initial_state=state["conv"],
            return_last_state=True,
        )
        h = embedded + mixed
        features = ops.tanh(self.project(h))
        ones = mx.ones((batch, seqlen, 1))
        rate = mx.logaddexp(self.rate, 0.0)
        s, ssm = ops.selective_scan(
            features,
            mx.broadcast_to(rate, features.shape),
            mx.full((self.channels, 1), -1.0),
            ones,
            ones,
            initial_state=state["ssm"],
            return_last_state=True,
        )
        before = mx.concatenate([state["last"], s[:, :-1]], axis=1)
        logit = ops.dense_matmul(mx.abs(s - before), self.boundary_weight[None])[..., 0] + self.boundary_bias
        h = h * (1 + mx.sigmoid(logit)[..., None])
        last = s[:, -1:] if seqlen else state["last"]
        return h, logit, TokenizerState(conv=conv, ssm=ssm, last=last)
