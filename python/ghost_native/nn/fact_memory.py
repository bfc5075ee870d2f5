"""FactMemory: facts stored as bytes after training, answered without changing a weight.

Addressing has two stages.

*Which fact.* Every byte scores every stored key: cosine and coverage between a decayed bag of 4-gram features of the
recent text and the same encoder's bag of the key, plus an exact matcher without parameters (`fact_match`) whose last
four hits fade with a keep gate of their own. A softmax over the null fact and the best `top_k` rows follows.

*Which byte.* A start detector says "the answer begins with the next byte"; a counter carries the probability that it
began j bytes ago. The fact distribution is the one *at the start*, so a key that happens to occur inside an answer
disturbs nothing; agreement of the last four bytes with a value sharpens the choice.

The expected next value byte is read out into the residual stream, gated, and multiplied by the probability of being
inside an answer at all: away from answers the stored facts leave the text model alone. The null fact has a value too,
"unknown".

Addressing facts by key and position follows memory networks (Weston et al., 2015; Miller et al., 2016, key-value memory
networks); the counter is the recurrent form of a pointer (Vinyals et al., 2015).
"""

from __future__ import annotations

import math
from typing import Any, TypedDict

import mlx.core as mx
from mlx import nn

from ghost_native import ops
from ghost_native.nn.fact_match import fold_tokens, match_longest
from ghost_native.nn.fact_recurrence import began_ago, decayed_sum, last_events
from ghost_native.nn.fact_store import NULL_ROW, PAD_BYTE, FactStore, PackedFacts

__all__ = ["FactAddress", "FactMemory", "FactMemoryState", "FactStore", "FactTable", "PackedFacts"]

_GRAMS = 4
_EPS = 1e-6
_SLOTS = 4  # exact hits remembered per sequence
_FEATURES = 6
_START_WIDTH = 24
_HIT_WIDTH = 24
_NEVER = -30.0
_BLOCK = 512
_BLOCK_SCORES = 1 << 22


class FactTable(PackedFacts):
    """`PackedFacts` plus the encoded keys: bags (rows, key_dim) float32, differentiable."""

    bags: mx.array


class FactMemoryState(TypedDict):
    """What one sequence carries from byte to byte; its size does not depend on the text (see `state_bytes`).

    history is max_key rounded up to a multiple of 16, plus 4; past is max_value + 1 rounded up to a multiple of 16.
    """

    window: mx.array  # (batch, history) int32, the last folded bytes
    bag: mx.array  # (batch, key_dim)
    hit_row: mx.array  # (batch, 4) int32, newest first
    hit_log: mx.array  # (batch, 4)
    hit_age: mx.array  # (batch, 4)
    start: mx.array  # (batch, past) start logits, oldest first
    rows: mx.array  # (batch, past, top_k + 1) int32, candidates at those bytes
    log_weights: mx.array  # (batch, past, top_k + 1)


class FactAddress(TypedDict):
    """The outcome of addressing, shared by all reads.

    - readout (batch, seqlen, value_dim): expected embedding of the next value byte
    - copy (batch, seqlen, 256): its distribution
    - inside (batch, seqlen): probability that the next byte belongs to an answer
    - features (batch, seqlen, 6): what the gates see besides h
    - scores (batch, seqlen, rows), log_norm (batch, seqlen): log P(row) = scores - log_norm; row 0 is the null fact
    - start_logit (batch, seqlen): "the answer begins with the next byte"
    """

    readout: mx.array
    copy: mx.array
    inside: mx.array
    features: mx.array
    scores: mx.array
    log_norm: mx.array
    start_logit: mx.array


def _rms_norm(x: mx.array) -> mx.array:
    return ops.rms_norm(x, mx.ones(x.shape[-1]), _EPS)


def _unit(x: mx.array) -> mx.array:
    """x / sqrt(|x|^2 + eps)"""
    dim = x.shape[-1]
    return ops.rms_norm(x, mx.full((dim,), dim**-0.5), _EPS / dim)


def _log_sigmoid(x: mx.array) -> mx.array:
    return -mx.logaddexp(-x, mx.array(0.0))


def _dense(x: mx.array, weight: mx.array) -> mx.array:
    """x @ weight.T: every dense product of this module with a learned matrix goes through here."""
    return ops.dense_matmul(x, weight)


class FactMemory(nn.Module):
    """Stored facts as a memory that a byte-level model reads from (see the module's docstring).

    Args:
        dim: width of the hidden state.
        num_reads: number of places where the model adds a readout.
        key_dim: width of the bag of 4-gram features.
        value_dim: width of the value byte embedding before the projection to `dim`.
        top_k: facts considered at each byte, besides the null fact.
        max_key, max_value: longest key and value in bytes that a store may hold; they fix the state's size.

    All computation is float32. Shapes repeat as long as a store stays within its bucket, so `mx.compile` is fine.
    """

    def __init__(
        self,
        dim: int,
        num_reads: int = 2,
        key_dim: int = 64,
        value_dim: int = 48,
        top_k: int = 4,
        max_key: int = 64,
        max_value: int = 63,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "num_reads": num_reads, "key_dim": key_dim, "value_dim": value_dim, "top_k": top_k}
        sizes |= {"max_key": max_key, "max_value": max_value}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"[FactMemory] {name} must be at least 1, got {size}")
        self.dim, self.num_reads, self.key_dim, self.top_k = dim, num_reads, key_dim, top_k
        self.max_key, self.max_value = max_key, max_value
        self._history = -(-max_key // 16) * 16 + _GRAMS
        self._past = -(-(max_value + 1) // 16) * 16

        def normal(rows: int, columns: int, scale: float) -> mx.array:
            return mx.random.normal((rows, columns)) * scale

        byte_dim, hidden = 32, 96
        # Encoder of the last four bytes, the same for text and keys.
        self.byte_embedding = normal(257, byte_dim, 1.0)
        self.gram_in = normal(hidden, _GRAMS * byte_dim, 1 / math.sqrt(_GRAMS * byte_dim))
        self.gram_bias = mx.zeros((hidden,))
        self.gram_out = normal(key_dim, hidden, 1 / math.sqrt(hidden))
        # Gates "write", "keep the bag", "keep the hits": a part from the 4-gram (text and keys), a part from the hidden
        # state (text only).
        self.gate_gram = mx.zeros((3, hidden))
        self.gate_hidden = mx.zeros((3, dim))
        self.gate_bias = mx.array([1.0, 4.0, 4.0])
        # Log weights of a score: cosine, coverage, and of an exact hit its presence, its length and its cosine.
        self.score_scale = mx.array([0.0, 0.0, 1.0, 1.5, 1.0])
        self.null_score = mx.array(5.0)
        # How much an exact hit counts where it stands: the hidden state behind it, the four bytes before it.
        self.hit_hidden = mx.zeros((1, dim))
        self.hit_before = normal(_HIT_WIDTH, _GRAMS * byte_dim, 1 / math.sqrt(_GRAMS * byte_dim))
        self.hit_out = mx.zeros((1, _HIT_WIDTH))
        self.hit_bias = mx.array(3.0)
        # Start detector on h and on two traces of the last exact hit.
        self.start_in = normal(_START_WIDTH, dim + 2, 1 / math.sqrt(dim))
        self.start_out = mx.zeros((1, _START_WIDTH))
        self.start_bias = mx.array(-3.0)
        # Position: weight of the counter, then bonuses for one to four agreeing bytes.
        self.position_scale = mx.array([2.0, 2.0, 2.0, 2.0, 2.0])
        # Readout.
        self.value_embedding = normal(value_dim, 256, 1.0)
        self.read_out = mx.random.normal((num_reads, dim, value_dim)) * (2 / math.sqrt(value_dim))
        self.read_gate = mx.zeros((num_reads, dim + _FEATURES))
        self.read_gate_bias = mx.ones((num_reads,))
        self.copy_scale = mx.array(4.0)

    def pack(self, store: FactStore) -> PackedFacts:
        """The store as arrays, checked against this memory's limits (ValueError)."""
        for key, value in store.facts().items():
            if len(key) > self.max_key or len(value) > self.max_value:
                raise ValueError(
                    f"[FactMemory.pack] the fact {key!r} has a key of {len(key)} and a value of {len(value)} bytes, "
                    f"this memory takes at most {self.max_key} and {self.max_value}"
                )
        return store.pack()

    def encode(self, facts: FactStore | PackedFacts) -> FactTable:
        """Encode keys. Differentiable in the weights; inside `mx.compile` pass `pack(store)` instead of the store."""
        packed = self.pack(facts) if isinstance(facts, FactStore) else facts
        keys, length = packed["keys"], packed["key_length"]
        width = keys.shape[1]
        # A key is read as at the start of a line: newline, space, key; nothing is written before the space.
        place = mx.arange(width + 2)[None] - (width + 1 - length[:, None])
        text = mx.pad(keys, [(0, 0), (2, 0)], constant_values=PAD_BYTE)
        text = mx.where(place == 0, 32, mx.where(place == -1, 10, text))
        padded = mx.pad(text, [(0, 0), (_GRAMS - 1, 0)], constant_values=PAD_BYTE)
        feature, gates = self._grams(padded, width + 2)
        gates = gates + self.gate_bias
        write = mx.where((place >= 0) & (length[:, None] > 0), mx.sigmoid(gates[..., 0]), 0.0)
        keep = _log_sigmoid(gates[..., 1])
        later = mx.cumsum(keep, axis=1, reverse=True) - keep
        bags = mx.sum(feature * (write * mx.exp(later))[..., None], axis=1)
        return FactTable(**packed, bags=bags)

    def _grams(self, folded: mx.array, seqlen: int) -> tuple[mx.array, mx.array]:
        """Unit feature of the last four bytes and the gates' share of it, for the last `seqlen` columns."""
        embedded = ops.embedding(self.byte_embedding, folded[:, -(seqlen + _GRAMS - 1) :])
        grams = mx.concatenate([embedded[:, _GRAMS - 1 - i : _GRAMS - 1 - i + seqlen] for i in range(_GRAMS)], axis=-1)
        hidden = ops.silu(_dense(grams, self.gram_in) + self.gram_bias)
        return _unit(_dense(hidden, self.gram_out)), _dense(hidden, self.gate_gram)

    def init_state(self, batch: int) -> FactMemoryState:
        """The state before the first byte of `batch` sequences."""
        past, candidates = self._past, self.top_k + 1
        return FactMemoryState(
            window=mx.full((batch, self._history), PAD_BYTE, mx.int32),
            bag=mx.zeros((batch, self.key_dim)),
            hit_row=mx.zeros((batch, _SLOTS), dtype=mx.int32),
            hit_log=mx.full((batch, _SLOTS), _NEVER),
            hit_age=mx.full((batch, _SLOTS), 1e6),
            start=mx.full((batch, past), _NEVER),
            rows=mx.zeros((batch, past, candidates), dtype=mx.int32),
            log_weights=mx.full((batch, past, candidates), _NEVER),
        )

    def state_bytes(self) -> int:
        """Bytes of state per sequence."""
        return sum(v.nbytes for v in self.init_state(1).values())  # type: ignore[attr-defined]

    def address(
        self, h: mx.array, tokens: mx.array, table: FactTable, state: FactMemoryState
    ) -> tuple[FactAddress, FactMemoryState]:
        """Decide, for every byte, which fact and which byte of it comes next. Causal; any seqlen >= 1.

        Args:
            h: (batch, seqlen, dim) hidden states at the first memory layer.
            tokens: (batch, seqlen) integer bytes 0..255.
            table: from `encode`.
            state: from `init_state` or the call before. Feeding a text in pieces gives what one call gives.

        Returns:
            The address and the state after the last byte. Differentiable in h, the weights, table["bags"] and the
            state.
        """
        batch, seqlen, _ = h.shape
        if tokens.shape != (batch, seqlen):
            raise ValueError(
                f"[FactMemory.address] tokens must be (batch, seqlen) = {(batch, seqlen)}, got {tokens.shape}"
            )
        if seqlen < 1:
            raise ValueError("[FactMemory.address] seqlen must be at least 1, got 0")
        if table["keys"].shape[1] >= self._history:
            raise ValueError(f"[FactMemory.address] the table's keys exceed max_key = {self.max_key}")
        rows = table["keys"].shape[0]
        block = max(32, min(_BLOCK, _BLOCK_SCORES // max(1, batch * rows)))
        parts: list[FactAddress] = []
        for begin in range(0, seqlen, block):
            end = min(seqlen, begin + block)
            part, state = self._address_block(h[:, begin:end].astype(mx.float32), tokens[:, begin:end], table, state)
            parts.append(part)
        if len(parts) == 1:
            return parts[0], state
        joined: Any = {name: mx.concatenate([p[name] for p in parts], axis=1) for name in parts[0]}  # type: ignore[literal-required]
        return joined, state

    def _address_block(
        self, h: mx.array, tokens: mx.array, table: FactTable, state: FactMemoryState
    ) -> tuple[FactAddress, FactMemoryState]:
        seqlen = h.shape[1]
        folded = mx.concatenate([state["window"], fold_tokens(tokens)], axis=1)
        normed = _rms_norm(h)

        feature, gates = self._grams(folded, seqlen)
        gates = gates + _dense(normed, self.gate_hidden) + self.gate_bias
        bag = decayed_sum(feature * mx.sigmoid(gates[..., :1]), _log_sigmoid(gates[..., 1]), state["bag"])

        row, length = match_longest(folded, table, self._history)
        weight = self._hit_weight(normed, folded, length)
        hits = (state["hit_row"], state["hit_log"], state["hit_age"])
        hit_row, hit_log, hit_age = last_events(row, weight, _log_sigmoid(gates[..., 2]), *hits)

        scores, cosine, candidates, log_weights, log_norm = ops.fact_scores(
            bag, table["bags"], table["key_length"], hit_row, hit_log, self.score_scale, self.null_score, self.top_k
        )

        strength = mx.where(hit_row[..., 0] != NULL_ROW, mx.exp(hit_log[..., 0]), 0.0)
        traces = mx.stack([strength, mx.exp(hit_age[..., 0] * -0.125)], axis=-1) * 4
        sensed = ops.silu(_dense(mx.concatenate([normed, traces], axis=-1), self.start_in))
        start_logit = _dense(sensed, self.start_out)[..., 0] + self.start_bias

        start = mx.concatenate([state["start"], start_logit], axis=1)
        all_rows = mx.concatenate([state["rows"], candidates], axis=1)
        all_weights = mx.concatenate([state["log_weights"], log_weights], axis=1)
        copy, inside, null_inside = ops.fact_positions(
            began_ago(start, seqlen, table["values"].shape[1]),
            all_rows,
            all_weights,
            folded,
            self.position_scale,
            table["values"],
            table["value_context"],
            table["value_length"],
        )
        features = mx.stack(
            [
                mx.exp(log_weights[..., 0]),
                strength,
                inside,
                null_inside,
                mx.sigmoid(start_logit),
                cosine,
            ],
            axis=-1,
        )
        past = self._past
        address = FactAddress(
            readout=_dense(copy, self.value_embedding),
            copy=copy,
            inside=inside,
            features=features,
            scores=scores,
            log_norm=log_norm,
            start_logit=start_logit,
        )
        new_state = FactMemoryState(
            window=folded[:, -self._history :],
            bag=bag[:, -1],
            hit_row=hit_row[:, -1],
            hit_log=mx.maximum(hit_log[:, -1], -1e3),
            hit_age=mx.minimum(hit_age[:, -1], 1e6),
            start=start[:, -past:],
            rows=all_rows[:, -past:],
            log_weights=all_weights[:, -past:],
        )
        return address, new_state

    def _hit_weight(self, normed: mx.array, folded: mx.array, length: mx.array) -> mx.array:
        """Log weight (batch, seqlen) of a hit of `length` bytes that ended just before each byte.

        A stored "france" is meant in "the france", not in "queen of france"; the bytes before the key tell.
        """
        seqlen = length.shape[1]
        first = mx.arange(self._history, self._history + seqlen) - length
        place = (first[..., None] - mx.arange(1, _GRAMS + 1)).reshape(length.shape[0], -1)
        before = mx.take_along_axis(folded, mx.maximum(place, 0), axis=1)
        embedded = ops.embedding(self.byte_embedding, before).reshape(*length.shape, -1)
        logit = _dense(normed, self.hit_hidden) + _dense(ops.silu(_dense(embedded, self.hit_before)), self.hit_out)
        return _log_sigmoid(logit[..., 0] + self.hit_bias)

    def read(self, h: mx.array, address: FactAddress, index: int) -> mx.array:
        """h plus the gated readout of read `index`; h (batch, seqlen, dim), same shape and dtype out."""
        if not 0 <= index < self.num_reads:
            raise ValueError(f"[FactMemory.read] index must be in 0..{self.num_reads - 1}, got {index}")
        seen = mx.concatenate([_rms_norm(h.astype(mx.float32)), 4 * address["features"]], axis=-1)
        gate = mx.sigmoid(_dense(seen, self.read_gate[index : index + 1]) + self.read_gate_bias[index])
        value = _dense(address["readout"] * (gate * address["inside"][..., None]), self.read_out[index])
        return h + value.astype(h.dtype)

    def copy_logits(self, address: FactAddress) -> mx.array:
        """A pointer for the output head: (batch, seqlen, 256) to add to the logits, zero away from answers."""
        return self.copy_scale * address["copy"] * address["inside"][..., None]

    def loss(self, address: FactAddress, fact: mx.array, start: mx.array, mask: mx.array) -> mx.array:
        """Auxiliary loss: cross-entropy of the fact plus twice the weighted binary cross-entropy of the start.

        Args:
            address: of the same bytes.
            fact: (batch, seqlen) int32: row to choose (`NULL_ROW`: the key is not stored), -1: not asked.
            start: (batch, seqlen): 1 where the next byte begins an answer.
            mask: (batch, seqlen): 1 for real bytes, 0 for padding.

        Returns:
            A float32 scalar.
        """
        asked = (fact >= 0).astype(mx.float32)
        score = mx.take_along_axis(address["scores"], mx.maximum(fact, 0)[..., None], axis=-1)[..., 0]
        which = mx.sum((address["log_norm"] - score) * asked) / mx.maximum(mx.sum(asked), 1.0)
        logit, start, mask = address["start_logit"], start.astype(mx.float32), mask.astype(mx.float32)
        entropy = mx.logaddexp(logit, mx.array(0.0)) - logit * start
        when = mx.sum(entropy * mask * (1 + 2 * start)) / mx.maximum(mx.sum(mask), 1.0)
        return which + 2 * when
