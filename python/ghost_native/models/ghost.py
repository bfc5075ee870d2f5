"""Ghost v6, a byte-level language model: causal, streaming, 2-bit weights, routed depth, facts stored as bytes.

The way the data goes::

    bytes (batch, seqlen)
      -> StateSpaceTokenizer                      h, boundary_prob       (batch, seqlen, dim)
      -> Router                                   depth in 1..max_depth, surprise   (batch, seqlen)
      -> for layer l:
            memory layers: h = memory.read(h, address)       every byte; only while facts are stored
            plan = routing_plan(depth > l)                   layer 0, and all layers without routing, take every byte
            x = skip_gather(x, plan)                         (n, dim) and cu_seqlens, of the rows of the layer before
            x = x + Mamba(norm(x))  [+ SparseAttention(norm(x))]  + FeedForward(norm(x))
      -> h = skip_scatter(h, x, plan), from the last layer to the first: skipped bytes pass unchanged, bit for bit
      -> RMSNorm -> head -> logits                (batch, seqlen, 256)

A layer sees only the bytes routed to it: its scan state, convolution window and attention cache never hear of the
others. So training, scoring a batch and streaming byte by byte are the same function, and the state of a stream is
O(1) but for the strided attention keys, one row per `stride` bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from ghost_native import ops
from ghost_native.models import checkpoint
from ghost_native.models.codebook_model import CodebookModel
from ghost_native.models.config import GhostConfig
from ghost_native.models.decode import Decoder
from ghost_native.models.state import GhostState, LayerState, MemoryStream
from ghost_native.nn.attention import SparseAttention
from ghost_native.nn.fact_memory import FactAddress, FactMemory, FactStore, FactTable
from ghost_native.nn.fact_store import FactBytes
from ghost_native.nn.feed_forward import FeedForward
from ghost_native.nn.linear import Linear
from ghost_native.nn.mamba import Mamba
from ghost_native.nn.norm import RMSNorm
from ghost_native.nn.recompute import recomputed
from ghost_native.nn.routed_rows import RoutedRows
from ghost_native.nn.router import Route, Router
from ghost_native.nn.tokenizer import StateSpaceTokenizer

if TYPE_CHECKING:
    from typing_extensions import Self


class Forward(NamedTuple):
    """Everything one pass computes; what is not wanted is never evaluated.

    logits (batch, seqlen, 256); state after the last byte; boundary_logit (batch, seqlen); cheap_logits
    (batch, seqlen, 256) of the cheap predictor for the next byte; surprise (batch, seqlen); depth (batch, seqlen);
    address of the memory, None without facts; routed: share of bytes that went through each layer.
    """

    logits: mx.array
    state: GhostState
    boundary_logit: mx.array
    cheap_logits: mx.array
    surprise: mx.array
    depth: mx.array
    address: FactAddress | None
    routed: list[float]


class GhostLayer(nn.Module):
    """Mamba, sparse attention where configured, and feed-forward, each added to the residual stream."""

    def __init__(self, config: GhostConfig, index: int) -> None:
        super().__init__()
        shared: Any = {"mode": config.weights, "num_layers": config.num_layers}
        self.mamba_norm = RMSNorm(config.dim)
        self.mamba = Mamba(
            config.dim,
            dstate=config.dstate,
            expand=config.expand,
            conv_width=config.conv_width,
            dt_rank=config.dt_rank,
            **shared,
        )
        if index in config.attention_at:
            self.attention_norm = RMSNorm(config.dim)
            self.attention = SparseAttention(config.dim, stride=config.stride, head_dim=config.head_dim, **shared)
        self.ffn_norm = RMSNorm(config.dim)
        self.ffn = FeedForward(config.dim, config.ffn_mult, **shared)

    def init_state(self, batch: int) -> LayerState:
        state = LayerState(mamba=self.mamba.init_state(batch))
        if "attention" in self:
            state["attention"] = self.attention.init_state(batch)
        return state

    def __call__(
        self,
        h: mx.array,
        state: LayerState | None,
        cu_seqlens: mx.array | None = None,
        residual: mx.array | None = None,
    ) -> tuple[mx.array, mx.array, LayerState]:
        """h (batch, seqlen, dim), or (total, dim) with cu_seqlens, to which `residual` is added first.

        Returns h and what is to be added to it, for the next norm to do, and the new state. From no state nothing is
        read, where zeros would be.
        """
        h, x = self.mamba_norm.add(h, residual)
        y, mamba = self.mamba(x, None if state is None else state["mamba"], cu_seqlens)
        new_state = LayerState(mamba=mamba)
        if "attention" in self:
            h, x = self.attention_norm.add(h, y)
            y, new_state["attention"] = self.attention(x, None if state is None else state["attention"], cu_seqlens)
        h, x = self.ffn_norm.add(h, y)
        return h, self.ffn(x), new_state


class Ghost(CodebookModel):
    """Ghost v6. ``model(tokens)`` gives logits for the byte after each position.

    Args:
        config: shape and behaviour; ``Ghost(GhostConfig(dim=256, num_layers=6))`` has 6.5 million parameters.
        seed: makes the initial weights reproducible; None draws from MLX's global generator.

    Tokens are integers (batch, seqlen): bytes 0..255, and specials from 256 on where configured. Values outside are
    clamped into the vocabulary.
    """

    def __init__(self, config: GhostConfig | None = None, *, seed: int | None = None) -> None:
        super().__init__()
        config = GhostConfig() if config is None else config
        if seed is not None:
            mx.random.seed(seed)
        self.config = config
        vocab = 256 + config.num_specials
        self.tokenizer = StateSpaceTokenizer(config.dim, vocab, conv_width=config.conv_width)
        self.router = Router(
            config.dim, config.depth_limit, min_depth=config.min_depth, threshold=config.threshold, vocab=vocab
        )
        self.layers = [GhostLayer(config, l) for l in range(config.num_layers)]
        self.memory = FactMemory(
            config.dim, num_reads=len(config.memory_at), max_key=config.max_key, max_value=config.max_value
        )
        self.norm = RMSNorm(config.dim)
        self.head = Linear(config.dim, 256, scale=0.5 * config.dim**-0.5)
        self._facts = FactStore(max_key=config.max_key, max_value=config.max_value)
        self._decoder = Decoder(GhostLayer)

    # -- the function -------------------------------------------------------------------------------------------------

    def __call__(self, tokens: mx.array) -> mx.array:
        """Logits (batch, seqlen, 256) for tokens (batch, seqlen), from an empty state."""
        return self.forward(tokens).logits

    def step(self, tokens: mx.array, state: GhostState) -> tuple[mx.array, GhostState]:
        """Continue a stream by tokens (batch, any length >= 1): logits (batch, length, 256) and the new state.

        However a text is cut into pieces, the logits are those of one call, to float tolerance (in float32, see
        :meth:`set_activation`). On CPUs all of it is one fused step, where nothing is differentiated.
        """
        decoded = self._decoder.step(self, tokens, state)
        if decoded is not None:
            return decoded
        out = self.forward(tokens, state)
        return out.logits, out.state

    def init_state(self, batch: int = 1) -> GhostState:
        """The state before the first byte of `batch` streams, reading the facts stored now."""
        return GhostState(
            tokenizer=self.tokenizer.init_state(batch),
            cheap=mx.zeros((batch, 1, 256)),
            layers=[layer.init_state(batch) for layer in self.layers],
            memory=self.stored_facts(None, batch),
        )

    def forward(self, tokens: mx.array, state: GhostState | None = None, *, table: FactTable | None = None) -> Forward:
        """Everything about one pass, for training and inspection.

        Args:
            tokens: (batch, seqlen) integer.
            state: to continue from; None for an empty one.
            table: encoded facts to read instead of the stored ones (training on fresh facts); read from an empty
                memory state.
        """
        if tokens.ndim != 2:
            raise ValueError(f"[Ghost] tokens must be (batch, seqlen), given shape {tuple(tokens.shape)}.")
        if not mx.issubdtype(tokens.dtype, mx.integer):
            raise ValueError(f"[Ghost] tokens must be integers, given {tokens.dtype}.")
        batch = tokens.shape[0]
        tokens = mx.clip(tokens.astype(mx.int32), 0, self.tokenizer.vocab - 1)
        before: Sequence[LayerState | None] = [None] * len(self.layers) if state is None else state["layers"]
        if state is None:
            state = self.init_state(batch)
        memory = state["memory"]
        if table is not None:
            memory = MemoryStream(version=-1, table=table, state=self.memory.init_state(batch))
        else:
            memory = self.stored_facts(memory, batch)

        h, boundary_logit, tokenizer_state = self.tokenizer(tokens, state["tokenizer"])
        h = h.astype(self.compute_dtype)
        normed = self.router.norm(h)
        cheap_logits = self.router.predict(normed, self.head.weight)
        surprise = self.router.surprise(state["cheap"], cheap_logits, tokens)
        depth = self.router.depth(normed, tokens, surprise)
        cheap = cheap_logits[:, -1:] if tokens.shape[1] else state["cheap"]

        address: FactAddress | None = None
        layer_states: list[LayerState] = []
        routed: list[float] = []
        reads = self.config.memory_at if memory is not None else ()
        rows = RoutedRows(h, depth)
        for l, (layer, plan) in enumerate(zip(self.layers, self._plans(depth, reads), strict=True)):
            if memory is not None and l in reads:
                h = rows.whole()
                if address is None:
                    address, memory_state = self.memory.address(h, tokens, memory["table"], memory["state"])
                    memory = MemoryStream(version=memory["version"], table=memory["table"], state=memory_state)
                rows = RoutedRows(self.memory.read(h, address, reads.index(l)), depth)
            layer_state, share = self._route_layer(l, layer, rows, plan, before[l])
            layer_states.append(layer_state)
            routed.append(share)
        logits = self.head(self.norm.add(*rows.together())[1])
        if address is not None:
            logits = logits + self.memory.copy_logits(address)
        new_state = GhostState(tokenizer=tokenizer_state, cheap=cheap, layers=layer_states, memory=memory)
        return Forward(logits, new_state, boundary_logit, cheap_logits, surprise, depth, address, routed)

    def _plans(self, depth: mx.array, reads: Sequence[int]) -> list[ops.RoutingPlan | None]:
        """Of every layer: which rows of the layer before it takes, or of all before which memory is read; None where
        all go through. Waits for depth."""
        if not self.config.routing:
            return [None] * len(self.layers)
        first = min(self.config.min_depth, len(self.layers))
        plans: list[ops.RoutingPlan | None] = [None] * first
        depths, cu_seqlens = everyone = np.array(depth.astype(mx.float32)), None
        for l in range(first, len(self.layers)):
            if l in reads:
                depths, cu_seqlens = everyone
            plan = ops.routing_plan(mx.array(depths > l), cu_seqlens=cu_seqlens)
            depths, cu_seqlens = depths.reshape(-1)[np.array(plan.indices)], plan.cu_seqlens
            plans.append(plan)
        return plans

    def _route_layer(
        self, l: int, layer: GhostLayer, rows: RoutedRows, plan: ops.RoutingPlan | None, state: LayerState | None
    ) -> tuple[LayerState, float]:
        """Take rows through layer l, those of its plan. Returns the layer's new state and the share of bytes."""
        if plan is None:
            rows.h, rows.residual, new_state = self._layer(layer)(rows.h, state, rows.residual)
            return new_state, 1.0
        n = plan.indices.shape[0]
        if n == 0:
            return layer.init_state(plan.cu_seqlens.shape[0] - 1) if state is None else state, 0.0
        rows.narrow(plan)
        h, residual, new_state = self._layer(layer, plan.cu_seqlens)(rows.h, state, rows.residual)
        rows.update(h, residual, Router.gate(rows.depth[:, 0], l))
        return new_state, n / rows.total

    def _layer(self, layer: GhostLayer, cu_seqlens: mx.array | None = None) -> Callable[..., Any]:
        def run(h: mx.array, state: LayerState | None, residual: mx.array | None) -> Any:
            return layer(h, state, cu_seqlens, residual=residual)

        return recomputed(layer, run) if self.recomputes else run

    # -- inspection ---------------------------------------------------------------------------------------------------

    def route(self, tokens: mx.array) -> Route:
        """Depth, surprise and boundary probability of every byte of tokens (batch, seqlen), from an empty state.

        Without routing in the configuration, depth is what the router would choose.
        """
        out = self.forward(tokens)
        return Route(out.depth, out.surprise, mx.sigmoid(out.boundary_logit))

    def segment(self, text: str | bytes, threshold: float = 0.5) -> list[bytes]:
        """The pieces the tokenizer sees in a text: one begins at every byte whose boundary_prob exceeds threshold.

        The pieces concatenate to the text.
        """
        data = text.encode() if isinstance(text, str) else bytes(text)
        if not data:
            return []
        _, logit, _ = self.tokenizer(mx.array(list(data), dtype=mx.int32)[None])
        begins = np.array(mx.sigmoid(logit[0])) > threshold
        begins[0] = True
        starts = np.flatnonzero(begins).tolist()
        return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]

    # -- facts --------------------------------------------------------------------------------------------------------

    def store_fact(self, key: FactBytes, value: FactBytes) -> None:
        """Remember a fact from now on, without training: a model trained on facts then answers with it.

        key and value are str, bytes or lists of byte values. Keys are found in the text whatever their case; storing a
        key again replaces its value. Facts are saved with the model. Running streams hear of it with their next step.

        Raises:
            ValueError: an empty or over-long key or value, or values that are no bytes.
        """
        self._facts.store(key, value)

    def forget(self, key: FactBytes) -> None:
        """Drop a fact; KeyError when it is not stored."""
        self._facts.forget(key)

    def facts(self) -> dict[bytes, bytes]:
        """The stored facts, oldest first."""
        return self._facts.facts()

    @property
    def fact_store(self) -> FactStore:
        return self._facts

    def stored_facts(self, memory: MemoryStream | None, batch: int) -> MemoryStream | None:
        """A stream's view of the facts stored now; keys are encoded again only when the store has changed."""
        version = self._facts.version
        if len(self._facts) == 0:
            return None
        if memory is not None and memory["version"] == version:
            return memory
        state = self.memory.init_state(batch) if memory is None else memory["state"]
        return MemoryStream(version=version, table=self.memory.encode(self._facts), state=state)

    # -- weights ------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write weights, configuration and facts to one .safetensors file, atomically."""
        checkpoint.save_model(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A model as saved, packed or not.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no Ghost checkpoint, or truncated, or does not fit its configuration.
        """
        return checkpoint.load_model(cls, Path(path))


def GhostV6(dim: int = 256, num_layers: int = 6, **config: Any) -> Ghost:
    """``Ghost(GhostConfig(dim=dim, num_layers=num_layers, **config))``."""
    return Ghost(GhostConfig.from_dict({"dim": dim, "num_layers": num_layers, **config}))
