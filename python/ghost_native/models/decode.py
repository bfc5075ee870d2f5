"""The fast path of :meth:`Ghost.step`: bytes of every stream in one call instead of some 200 operations.

It computes what :meth:`Ghost.forward` does, on the same state, so that pieces of text and single bytes mix freely. The
weights go in once, and every step checks that they are still the model's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from mlx import nn

from ghost_native import ops
from ghost_native.models.state import GhostState, LayerState, MemoryStream
from ghost_native.nn.attention import AttentionState, SparseAttention
from ghost_native.nn.fact_match import byte_tables
from ghost_native.nn.fact_memory import FactAddress, FactMemory
from ghost_native.nn.fact_store import HASH_BASE
from ghost_native.nn.feed_forward import FeedForward
from ghost_native.nn.linear import Activation, CodebookLinear, Linear
from ghost_native.nn.mamba import Mamba, MambaState
from ghost_native.nn.norm import EPS, RMSNorm
from ghost_native.nn.router import Router
from ghost_native.nn.tokenizer import StateSpaceTokenizer, TokenizerState
from ghost_native.ops.decode_step import decode_available, decode_facts, decode_model

if TYPE_CHECKING:
    from ghost_native._ext import DecodeFacts, DecodeModel
    from ghost_native.models.ghost import Ghost, GhostLayer

_TOKENIZER = ("embedding", "conv_weight", "conv_bias", "project", "rate", "boundary_weight", "boundary_bias")
_ROUTER = ("norm", "cheap_in", "cheap_out", "context", "bias", "importance")
_MAMBA = (
    "in_proj_x", "in_proj_z", "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "A_log", "D", "out_proj",
)  # fmt: skip
_ATTENTION = ("query", "key", "value", "out")
_MEMORY = (
    "byte_embedding", "gram_in", "gram_bias", "gram_out", "gate_gram", "gate_hidden", "gate_bias", "score_scale",
    "null_score", "hit_hidden", "hit_before", "hit_out", "hit_bias", "start_in", "start_out", "start_bias",
    "position_scale", "value_embedding", "read_out", "read_gate", "read_gate_bias", "copy_scale",
)  # fmt: skip
_TABLE = ("keys", "key_length", "key_hash", "values", "value_context", "value_length", "bags")
_STATE = ("window", "bag", "hit_row", "hit_log", "hit_age", "start", "rows", "log_weights")
_KNOWN = (CodebookLinear, FeedForward, Linear, Mamba, RMSNorm, Router, SparseAttention, StateSpaceTokenizer)

Slot = tuple[dict[str, Any], str]  # a module and the name of an array in it
Link = tuple[Any, Any, Any]  # a container, a key, and what has to be there


class Decoder:
    """A model's weights as the fused step takes them, made anew when they are no longer the model's."""

    def __init__(self, layer: type[GhostLayer]) -> None:
        self._layer = layer  # whose layers it knows
        self._native: DecodeModel | None = None
        self._facts: DecodeFacts | None = None
        self._model: Callable[[], Ghost | None] = lambda: None  # a weak reference: the model holds this object
        self._coded: list[CodebookLinear] = []
        self._slots: list[Slot] = []
        self._links: list[Link] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Decoder:
        return Decoder(self._layer)

    def __reduce__(self) -> tuple[type[Decoder], tuple[type[GhostLayer]]]:
        return Decoder, (self._layer,)

    def step(self, model: Ghost, tokens: mx.array, state: GhostState) -> tuple[mx.array, GhostState] | None:
        """Logits (batch, seqlen, 256) and the new state for tokens (batch, seqlen); None where forward() must do it."""
        if tokens.ndim != 2 or tokens.size == 0:
            return None
        if tokens.dtype != mx.int32:
            if not mx.issubdtype(tokens.dtype, mx.integer):
                return None
            tokens = tokens.astype(mx.int32)
        if not decode_available([tokens]):
            return None
        native = self._weights_of(model)
        if native is None:
            return None
        activation = self._activation() if tokens.shape[1] > 1 else "float32"
        if activation is None:
            return None
        memory = model.stored_facts(state["memory"], tokens.shape[0])
        run = _Run(native, model, tokens, state, activation)
        if memory is None:
            return run.finish(None) if run.layers(model.config.num_layers) else None
        # With facts the step is cut before every layer that reads them.
        reader: _ByteReader | _PieceReader = _PieceReader(model, tokens, memory)
        if tokens.shape[1] == 1:
            facts = self._facts_of(model)
            if facts is None:
                return None
            reader = _ByteReader(facts, tokens, memory)
        for cut in sorted(set(model.config.memory_at)):
            if not run.layers(cut):
                return None
            run.h = reader.read(run.h, model.config.memory_at.index(cut))
        if not run.layers(model.config.num_layers):
            return None
        run.h = reader.point(run.h)
        return run.finish(reader.memory)

    def _facts_of(self, model: Ghost) -> DecodeFacts | None:
        memory = model.memory
        if type(memory) is not FactMemory:
            return None
        sources = [memory[name] for name in _MEMORY]
        if self._facts is None or not self._facts.made_of(sources):
            self._facts = None
            if any(x.dtype != mx.float32 for x in sources) or not decode_available(sources):
                return None
            fold, hashes, word = byte_tables()
            if model.config.num_specials == 0:
                fold = np.append(fold[:256], fold[255])  # what is over the vocabulary counts as its last token
            self._facts = decode_facts(sources, [*sources, *map(mx.array, (fold, hashes, word))], HASH_BASE)
        return self._facts

    def _weights_of(self, model: Ghost) -> DecodeModel | None:
        if self._native is not None and not (self._model() is model and self._is_current(self._native)):
            self._native = self._facts = None  # at once, for they hold on to the weights they were made of
        if self._native is None:
            self._native, self._model = self._make(model), weakref.ref(model)
        return self._native

    def _is_current(self, native: DecodeModel) -> bool:
        try:
            return all(container[key] is value for container, key, value in self._links) and native.made_of(
                [module[name] for module, name in self._slots]
            )
        except (KeyError, IndexError):  # packed since, or a part taken away
            return False

    def _activation(self) -> Activation | None:
        """How all two-bit layers multiply; None where they differ, or where latent weights would round otherwise."""
        activations = {layer.activation for layer in self._coded} or {"float32"}
        if len(activations) > 1:
            return None
        (activation,) = activations
        return activation if activation == "float32" or all(layer.is_packed for layer in self._coded) else None

    def _make(self, model: Ghost) -> DecodeModel | None:
        config = model.config
        tops: list[Link] = [(model, key, model[key]) for key in ("tokenizer", "router", "norm", "head")]
        holders = [value for _, _, value in tops] + model.layers
        inside = tops + [link for module in holders for link in _children(module)]
        modules = [module for _, _, module in inside]
        # What other classes, biases and half precision would compute is not known here.
        if not all(type(module) in _KNOWN and "bias" not in _plain(module) for module in modules):
            return None
        if not all(type(layer) is self._layer for layer in model.layers):
            return None
        self._coded = [module for module in modules if isinstance(module, CodebookLinear) and "codebook" in module]
        parts, layers = _model_parts(model), [_layer_parts(layer) for layer in model.layers]
        self._slots = [slot for part in [*parts, *(part for layer in layers for part in layer)] for slot in part]
        sources = [module[name] for module, name in self._slots]
        if any(module[name].dtype != mx.float32 for module, name in self._slots if name not in ("codes", "codebook")):
            return None
        values = [(vars(model), ("config",)), (vars(model.router), ("threshold", "min_depth", "max_depth"))]
        values += [(vars(module), ("_eps",)) for module in modules if isinstance(module, RMSNorm)]
        self._links = [
            *inside,
            (model, "layers", model.layers),
            *((model.layers, l, layer) for l, layer in enumerate(model.layers)),
            *((holder, key, holder[key]) for holder, keys in values for key in keys),
        ]
        usual = model.router.min_depth == config.min_depth and all(
            module._eps == EPS for module in modules if isinstance(module, RMSNorm)
        )
        if not usual or not decode_available(sources):
            return None
        return decode_model(
            sources,
            [_matrix(part) for part in parts],
            [[_matrix(part) for part in layer] for layer in layers],
            head_dim=min(config.head_dim, config.dim),
            stride=config.stride,
            eps=EPS,
            routing=config.routing,
            min_depth=model.router.min_depth,
            max_depth=model.router.max_depth,
            threshold=model.router.threshold,
        )


class _Run:
    """One step, by pieces: layers up to some number at a time, with h in between."""

    def __init__(
        self, native: DecodeModel, model: Ghost, tokens: mx.array, state: GhostState, activation: Activation
    ) -> None:
        self.native, self.config, self.state, self.activation = native, model.config, state, activation
        self.seqlen = tokens.shape[1]
        self.h = tokens  # what goes into the next piece
        self.front: list[mx.array] = []  # what the first piece returned
        self.new_layers: list[LayerState] = []

    def layers(self, last: int) -> bool:
        """Runs the next layers, before the first ones the tokenizer, after the last ones the head. False: cannot."""
        config, first, start = self.config, len(self.new_layers), not self.front
        inputs = [self.h]
        if start:
            tokenizer = self.state["tokenizer"]
            inputs += tokenizer["conv"], tokenizer["ssm"], tokenizer["last"], self.state["cheap"]
        elif config.routing:
            inputs.append(self.front[-2])  # depth
        layers = self.state["layers"][first:last]
        for layer in layers:
            mamba = layer["mamba"]
            inputs += mamba["conv"], mamba["ssm"]
            if "attention" in layer:
                cache = layer["attention"]
                inputs += cache["window_k"], cache["window_v"], cache["recent_k"], cache["recent_v"]
                inputs += cache["strided_k"], cache["strided_v"], cache["count"]
        if any(x.dtype == mx.float16 or x.dtype == mx.bfloat16 for x in inputs):
            return False
        out = self.native.step(inputs, first, last, start, self.activation)
        if out is None:
            return False
        arrays = iter(out)
        if start:
            self.front = out
            for _ in range(4):
                next(arrays)
        for layer in layers:
            new_layer = LayerState(mamba=MambaState(conv=next(arrays), ssm=next(arrays)))
            if "attention" in layer:
                routed = config.routing and len(self.new_layers) >= config.min_depth
                new_layer["attention"] = AttentionState(
                    window_k=next(arrays),
                    window_v=next(arrays),
                    recent_k=next(arrays),
                    recent_v=next(arrays),
                    strided_k=next(arrays),
                    strided_v=next(arrays),
                    count=next(arrays),
                    seen=layer["attention"]["seen"] + self.seqlen,
                    exact=layer["attention"]["exact"] and not routed,
                )
            self.new_layers.append(new_layer)
        self.h = out[-1]
        return True

    def finish(self, memory: MemoryStream | None) -> tuple[mx.array, GhostState]:
        conv, ssm, last, cheap = self.front[:4]
        tokenizer = TokenizerState(conv=conv, ssm=ssm, last=last)
        return self.h, GhostState(tokenizer=tokenizer, cheap=cheap, layers=self.new_layers, memory=memory)


class _ByteReader:
    """Reads the facts of single bytes at once, without a graph."""

    def __init__(self, facts: DecodeFacts, tokens: mx.array, memory: MemoryStream) -> None:
        self.facts, self.tokens, self.memory = facts, tokens, memory
        self._where: list[mx.array] | None = None

    def read(self, h: mx.array, index: int) -> mx.array:
        """h with what read `index` adds; the first one addresses."""
        if self._where is None:
            table: Any = self.memory["table"]
            state: Any = self.memory["state"]
            self._where = self.facts.address([h, self.tokens, *map(table.get, _TABLE), *map(state.get, _STATE)])
            after: Any = dict(zip(_STATE, self._where[4:], strict=True))
            self.memory = MemoryStream(**{**self.memory, "state": after})
        readout, _, inside, features = self._where[:4]
        return self.facts.read([h, readout, inside, features], index)

    def point(self, logits: mx.array) -> mx.array:
        if self._where is None:
            return logits
        _, copy, inside, _ = self._where[:4]
        return self.facts.copy([logits, copy, inside])


class _PieceReader:
    """The same for longer pieces, by the memory's own operations."""

    def __init__(self, model: Ghost, tokens: mx.array, memory: MemoryStream) -> None:
        self.module, self.memory = model.memory, memory
        self.tokens = mx.clip(tokens, 0, model.tokenizer.vocab - 1)
        self._address: FactAddress | None = None

    def read(self, h: mx.array, index: int) -> mx.array:
        if self._address is None:
            self._address, after = self.module.address(h, self.tokens, self.memory["table"], self.memory["state"])
            self.memory = MemoryStream(**{**self.memory, "state": after})
        return self.module.read(h, self._address, index)

    def point(self, logits: mx.array) -> mx.array:
        return logits if self._address is None else logits + self.module.copy_logits(self._address)


def _plain(module: nn.Module) -> dict[str, Any]:
    """The parts of a linear layer; other modules have biases of their own."""
    return module if isinstance(module, (Linear, CodebookLinear)) else {}


def _model_parts(model: Ghost) -> list[list[Slot]]:
    parts = [*(_slots(model.tokenizer, name) for name in _TOKENIZER), *(_slots(model.router, n) for n in _ROUTER)]
    return [*parts, _slots(model, "norm"), _slots(model, "head")]


def _layer_parts(layer: GhostLayer) -> list[list[Slot]]:
    parts = [_slots(layer, "mamba_norm"), *(_slots(layer.mamba, name) for name in _MAMBA)]
    if "attention" in layer:
        parts += [_slots(layer, "attention_norm"), *(_slots(layer.attention, name) for name in _ATTENTION)]
    return [*parts, _slots(layer, "ffn_norm"), _slots(layer.ffn, "up"), _slots(layer.ffn, "down")]


def _slots(module: nn.Module, name: str) -> list[Slot]:
    """Where the array `name` of a module is, or the arrays of its part `name`."""
    part = module[name]
    if not isinstance(part, nn.Module):
        return [(module, name)]
    return [(part, key) for key in ("codes", "weight", "codebook") if key in part]


def _children(module: nn.Module) -> Iterator[Link]:
    for key, value in module.items():
        if isinstance(value, nn.Module):
            yield module, key, value
            yield from _children(value)


def _matrix(part: list[Slot]) -> list[mx.array]:
    """The arrays of a part; latent weights become codes, as CodebookLinear.pack() makes them."""
    arrays = [module[name] for module, name in part]
    if len(arrays) == 2 and arrays[0].dtype != mx.uint32:
        codebook = arrays[1].astype(mx.float16)
        return [ops.codebook_assign(arrays[0], codebook), codebook]
    return arrays
