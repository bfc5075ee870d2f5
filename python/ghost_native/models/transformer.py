"""A decoder-only transformer, the peer of Ghost: rotary positions, RMSNorm, SwiGLU, causal attention.

The way the data goes::

    tokens (batch, seqlen)
      -> embedding                                 h         (batch, seqlen, d_model)
      -> for each block:
            h = h + attention(norm(h))                       causal, all earlier positions of the context
            h = h + feed_forward(norm(h))                    SwiGLU, or GELU
      -> RMSNorm -> head -> logits                 (batch, seqlen, vocab_size)

The context is at most max_seq_len tokens, less where the model was trained on shorter texts. When it is full, it begins
anew with its last half, computed again from nothing, as if the text began there: a position never sees more than in
training, nor anything computed from what has left the context. Where it begins anew depends on the position alone, so
that streaming, scoring and training are the same function.

Touvron et al., 2023, arXiv:2302.13971, whose names of weights :mod:`ghost_native.models.export` writes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import mlx.core as mx
from mlx import nn

from ghost_native import ops
from ghost_native.models import checkpoint
from ghost_native.models.codebook_model import CodebookModel
from ghost_native.models.transformer_config import TransformerConfig
from ghost_native.nn.causal_attention import CausalAttention, KeyValues, Rotary, rotary_table, written
from ghost_native.nn.dropout import dropout, dropout_key
from ghost_native.nn.gated_feed_forward import GatedFeedForward
from ghost_native.nn.linear import Linear
from ghost_native.nn.norm import RMSNorm
from ghost_native.nn.recompute import recomputed

if TYPE_CHECKING:
    from typing_extensions import Self

# Standard deviations of the initial weights, relative to one over the root of their inputs. Logits start small, and so
# does what a block adds to the embedding: after 200 steps that is worth 0.7 bits a byte against 0.02 for the embedding
# and 1 for blocks (d_model 128, 4 blocks).
EMBEDDING_SCALE, BLOCK_SCALE = 0.5, 0.1


class TransformerState(TypedDict):
    """What a stream carries between calls of :meth:`Transformer.step`. Treat it as opaque; old states stay usable.

    tokens (batch, capacity) int32 of the context, of which the first `count` are there; layers: their keys and values.
    """

    tokens: mx.array
    count: int
    layers: list[KeyValues]


class TransformerForward(NamedTuple):
    """What one pass computes; what is not wanted is never evaluated.

    logits (batch, seqlen, vocab_size); state after the last token; routed: share of tokens that went through each
    block, which is 1.
    """

    logits: mx.array
    state: TransformerState
    routed: list[float]


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each of the norm of the residual stream and added to it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        shared: Any = {"mode": config.weights, "out_scale": BLOCK_SCALE * (2 * config.n_layers) ** -0.5}
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = CausalAttention(config.d_model, config.n_heads, **shared)
        self.ffn_norm = RMSNorm(config.d_model, config.norm_eps)
        self.ffn = GatedFeedForward(config.d_model, config.hidden_dim, activation=config.ffn_activation, **shared)
        self._dropout = config.dropout

    def __call__(
        self, h: mx.array, rotary: Rotary, state: KeyValues | None = None, count: int = 0, key: mx.array | None = None
    ) -> tuple[mx.array, KeyValues]:
        """h (batch, seqlen, d_model) after `count` rows held in state; with a key, values are dropped.

        Returns h like it, and the new state.
        """
        keys = (None, None) if key is None else mx.random.split(key)
        y, new_state = self.attention(self.attention_norm(h), rotary, state, count)
        h, x = self.ffn_norm.add(h, dropout(y, self._dropout, keys[0]))
        return h + dropout(self.ffn(x), self._dropout, keys[1]), new_state


class Transformer(CodebookModel):
    """A decoder-only transformer. ``model(tokens)`` gives logits for the token after each position.

    Args:
        config: shape and behaviour; ``Transformer(TransformerConfig.preset("tiny"))`` is a model of bytes with 7
            million parameters.
        seed: makes the initial weights reproducible; None draws from MLX's global generator.

    Tokens are integers (batch, seqlen), 0 to vocab_size - 1. Values outside are clamped into the vocabulary.

    A new model is in training mode as every ``mlx.nn.Module`` is, a loaded one is not; :meth:`train` and :meth:`eval`
    switch. Values are dropped in training mode only, and never by :meth:`step`.
    """

    def __init__(self, config: TransformerConfig | None = None, *, seed: int | None = None) -> None:
        super().__init__()
        config = TransformerConfig() if config is None else config
        if seed is not None:
            mx.random.seed(seed)
        self.config = config
        scale = EMBEDDING_SCALE * config.d_model**-0.5
        self.embedding = Linear(config.d_model, config.vocab_size, scale=scale)  # its rows, and the head if tied
        self.layers = [TransformerBlock(config) for _ in range(config.n_layers)]
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        if not config.tie_embeddings:
            self.head = Linear(config.d_model, config.vocab_size, scale=scale)
        self._rotary = rotary_table(config.max_seq_len, config.head_dim, config.rope_theta)
        self._context = config.max_seq_len

    @property
    def context(self) -> int:
        """Tokens that a position sees at most, 1 to max_seq_len, which it is at first; saved with the model.

        A run sets it to the length of the texts it trains on: positions beyond are possible, but were never learned.
        """
        return self._context

    @context.setter
    def context(self, length: int) -> None:
        if not 1 <= length <= self.config.max_seq_len:
            raise ValueError(
                f"[Transformer] context is out of range, given {length}, allowed: 1 to max_seq_len = "
                f"{self.config.max_seq_len}."
            )
        self._context = length

    # -- the function -------------------------------------------------------------------------------------------------

    def __call__(self, tokens: mx.array, *, key: mx.array | None = None) -> mx.array:
        """Logits (batch, seqlen, vocab_size) for tokens (batch, seqlen), from an empty context."""
        # Without the state nothing of a block is kept but its input, where gradients are checkpointed.
        return self._continue(tokens, None, self._key(key), want_state=False)[0]

    def step(self, tokens: mx.array, state: TransformerState) -> tuple[mx.array, TransformerState]:
        """Continue a stream by tokens (batch, any length >= 1): logits (batch, length, vocab_size) and the new state.

        However a text is cut into pieces, the logits are those of one call, to float tolerance. A stream may be longer
        than :attr:`context`: it then begins anew with its last ``context // 2`` tokens, which takes a pass over them
        every ``context - context // 2`` tokens. No values are dropped out, whatever the mode.
        """
        return self._continue(tokens, state, None, want_state=True)

    def init_state(self, batch: int = 1) -> TransformerState:
        """The state before the first token of `batch` streams."""
        dtype = self._stream_dtype
        return TransformerState(
            tokens=mx.zeros((batch, 0), dtype=mx.int32),
            count=0,
            layers=[layer.attention.init_state(batch, dtype) for layer in self.layers],
        )

    @property
    def _stream_dtype(self) -> mx.Dtype:
        """Of the residual stream: that of the weights where these are half precision already."""
        held = self.embedding.weight.dtype
        return self.compute_dtype if held == mx.float32 else held

    def forward(
        self, tokens: mx.array, state: TransformerState | None = None, *, key: mx.array | None = None
    ) -> TransformerForward:
        """One pass, for training and scoring.

        Args:
            tokens: (batch, seqlen) integer.
            state: to continue from; None for an empty context.
            key: of the values dropped in training mode; None draws one from MLX's global generator. The same key drops
                the same values.

        Differentiable in the weights and in state's keys and values.

        Raises:
            ValueError: tokens are not integers of shape (batch, seqlen), or the state is of another number of streams.
        """
        logits, state = self._continue(tokens, state, self._key(key), want_state=True)
        return TransformerForward(logits, state, [1.0] * self.config.n_layers)

    def _key(self, key: mx.array | None) -> mx.array | None:
        """The key to drop by, None where nothing is dropped."""
        if not self.training or self.config.dropout == 0:
            return None
        return dropout_key() if key is None else key

    def _continue(
        self, tokens: mx.array, state: TransformerState | None, key: mx.array | None, *, want_state: bool
    ) -> tuple[mx.array, TransformerState]:
        if tokens.ndim != 2:
            raise ValueError(f"[Transformer] tokens must be (batch, seqlen), given shape {tuple(tokens.shape)}.")
        if not mx.issubdtype(tokens.dtype, mx.integer):
            raise ValueError(f"[Transformer] tokens must be integers, given {tokens.dtype}.")
        batch, seqlen = tokens.shape
        streams = batch if state is None else state["tokens"].shape[0]
        if streams != batch:
            raise ValueError(f"[Transformer] tokens do not fit the state, given {batch} streams, allowed: {streams}.")
        tokens = mx.clip(tokens.astype(mx.int32), 0, self.config.vocab_size - 1)
        limit = self._context
        if state is None and 0 < seqlen <= limit:
            return self._pass(tokens, None, key, 0, want_state)
        state = self.init_state(batch) if state is None else state
        pieces: list[mx.array] = []
        at = 0
        while at < seqlen:
            count = state["count"]
            end = min(seqlen, at + limit - count)
            piece, again = tokens[:, at:end], 0
            if end <= at:  # the context is full
                again = limit // 2
                end = min(seqlen, at + limit - again)
                piece = mx.concatenate([state["tokens"][:, count - again : count], tokens[:, at:end]], axis=1)
                state = self.init_state(batch)
            key, drop = (None, None) if key is None else mx.random.split(key)
            logits, state = self._pass(piece, state, drop, again, True)
            pieces.append(logits)
            at = end
        if not pieces:
            return mx.zeros((batch, 0, self.config.vocab_size)), state
        return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=1), state

    def _pass(
        self, tokens: mx.array, state: TransformerState | None, key: mx.array | None, skip: int, want_state: bool
    ) -> tuple[mx.array, TransformerState]:
        """Tokens that fit into the context. Logits of all but the first `skip`, and the new state if that is wanted."""
        count, seqlen = 0 if state is None else state["count"], tokens.shape[1]
        held = tokens
        if state is not None:
            # Read back from the buffer, so that whoever evaluates logits evaluates it: no graph grows along a stream.
            held = written(state["tokens"], tokens, count)
            tokens = held[:, count : count + seqlen]
        keys = [None] * (len(self.layers) + 1) if key is None else mx.random.split(key, len(self.layers) + 1)
        rotary = self._rotary.rows(count, count + seqlen)
        h = ops.embedding(self.embedding.weight, tokens).astype(self._stream_dtype)
        h = dropout(h, self.config.dropout, keys[0])
        layers: list[KeyValues] = []
        for l, layer in enumerate(self.layers):
            past = None if state is None else state["layers"][l]
            if want_state:
                h, new_state = self._block(layer, rotary, count, keys[l + 1])(h, past)
                layers.append(new_state)
            else:
                h = self._block(layer, rotary, count, keys[l + 1], slice(1))(h, past)[0]
        h = self.norm(h[:, skip:])
        logits = (self.head if "head" in self else self.embedding)(h)
        return logits, TransformerState(tokens=held, count=count + seqlen, layers=layers)

    def _block(
        self, layer: TransformerBlock, rotary: Rotary, count: int, key: mx.array | None, results: slice = slice(None)
    ) -> Callable[[mx.array, KeyValues | None], Any]:
        """The results of a block that are wanted, as a function of what gradients flow to."""

        def run(h: mx.array, past: KeyValues | None) -> Any:
            return layer(h, rotary, past, count, key)[results]

        return recomputed(layer, run) if self.recomputes else run

    # -- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write weights and configuration to one .safetensors file, atomically."""
        checkpoint.save_transformer(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A model as saved, packed or not, in evaluation mode.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no checkpoint of a transformer, or truncated, or does not fit its configuration.
        """
        return checkpoint.load_transformer(cls, Path(path))
