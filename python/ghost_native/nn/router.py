"""Router: how many layers each byte deserves, decided from bytes already read."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from ghost_native import _ext, ops
from ghost_native.nn.linear import Linear
from ghost_native.nn.norm import RMSNorm


class Route(NamedTuple):
    """Per byte, (batch, seqlen) float32.

    depth: layers the byte goes through lie below it, 1..max_depth (layer l runs where depth > l);
    surprise: 1 - p(byte) under the cheap predictor, at the byte before;
    boundary_prob: that a new piece of text begins here.
    """

    depth: mx.array
    surprise: mx.array
    boundary_prob: mx.array


class Router(nn.Module):
    """depth = 1 + (max_depth - 1) * sigmoid(context + byte importance); predictable bytes stop at min_depth.

    The choice is hard. In training what a layer adds is multiplied by a gate whose value is 1 and whose gradient
    is that of a sigmoid around the threshold (straight-through), so that depth learns from the language-model loss.

    Args:
        dim: width of the tokenizer's output.
        max_depth: deepest a byte may go, at most the number of layers.
        min_depth: layers that every byte goes through.
        threshold: a byte whose surprise is below it goes through min_depth layers only.
        rank: rank of the cheap predictor's adapter.
        vocab: byte values plus specials.
    """

    def __init__(
        self, dim: int, max_depth: int, *, min_depth: int = 1, threshold: float = 0.5, rank: int = 32, vocab: int = 256
    ) -> None:
        super().__init__()
        self.max_depth, self.min_depth, self.threshold = max_depth, min_depth, threshold
        self.norm = RMSNorm(dim)
        self.context = mx.random.normal((dim,)) * (0.1 * dim**-0.5)
        # Routes start open: at first nearly every byte goes all the way.
        self.bias = mx.array(2.0)
        self.importance = mx.zeros((vocab,))
        self.cheap_in = Linear(dim, rank)
        self.cheap_out = Linear(rank, dim, scale=0.1)

    def predict(self, x: mx.array, head: mx.array) -> mx.array:
        """The cheap predictor's logits (..., 256) for the byte after each position, read off x (..., dim), h normed.

        It borrows the model's output head (256, dim) without training it.
        """
        return self.cheap_out.product(x + self.cheap_out(self.cheap_in(x)), mx.stop_gradient(head))

    def surprise(self, before: mx.array, cheap_logits: mx.array, tokens: mx.array) -> mx.array:
        """1 - p(token) for tokens (batch, seqlen), each under the logits of the byte before it.

        Args:
            before: (batch, 1, 256), logits for the first token.
            cheap_logits: (batch, seqlen, 256), logits for the token after each position.
        """
        first = min(1, tokens.shape[1])  # of no tokens there is none
        tokens = mx.minimum(tokens, 255)
        # Targets move instead of logits, which are 256 times as large; the last position has none.
        after = mx.concatenate([tokens[:, 1:], mx.full((len(tokens), first), -1, tokens.dtype)], axis=1)
        losses = [ops.cross_entropy(before[:, :first], tokens[:, :1]), ops.cross_entropy(cheap_logits, after)[:, :-1]]
        return 1 - mx.exp(-mx.concatenate(losses, axis=1))

    def depth(self, x: mx.array, tokens: mx.array, surprise: mx.array) -> mx.array:
        """Depth (batch, seqlen) in 1..max_depth, differentiable in x and the weights; the threshold is a hard cut."""
        context = ops.dense_matmul(x, self.context[None])[..., 0]
        score = context + self.bias + mx.take(self.importance, tokens, axis=0)
        depth = 1 + (self.max_depth - 1) * mx.sigmoid(score)
        return mx.where(surprise < self.threshold, mx.minimum(depth, self.min_depth), depth)

    @staticmethod
    def gate(depth: mx.array, layer: int) -> mx.array | None:
        """1 with the gradient of a sigmoid of (depth - layer); None, for 1, where depth is not differentiated."""
        if not _ext.is_traced(depth):
            return None
        soft = mx.sigmoid(4 * (depth - layer))
        return soft + mx.stop_gradient(1 - soft)
