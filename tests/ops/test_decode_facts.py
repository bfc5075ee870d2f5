"""The fact memory's part of a fused step, byte by byte against the memory's graph over the whole text."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ghost_native.models.decode import _MEMORY, _STATE, _TABLE
from ghost_native.nn.fact_match import byte_tables
from ghost_native.nn.fact_memory import FactMemory
from ghost_native.nn.fact_store import HASH_BASE, FactStore
from ghost_native.ops.decode_step import decode_facts
from tests.models.test_ghost import build
from tests.tolerances import NRMSE, nrmse

LONGEST = "a key of just as many bytes as there may be at all, which are 64"
FACTS = {"capital of france": "Paris", "age": "12", LONGEST: "v" * 63, "q7": "x"}
TEXT = f"Capital of France? Paris\n{LONGEST}? {'v' * 63} the age is 12, q7 q7 age: x\n".encode()


def operands(dim: int = 24, batch: int = 2, **sizes: int) -> tuple[FactMemory, Any, mx.array, mx.array]:
    mx.random.seed(2)
    memory = FactMemory(dim, **sizes)
    for name in _MEMORY:
        memory[name] = memory[name] + 0.2 * mx.random.normal(memory[name].shape)
    sources = [memory[name] for name in _MEMORY]
    native = decode_facts(sources, [*sources, *map(mx.array, byte_tables())], HASH_BASE)
    tokens = mx.array(np.array([list(TEXT), list(TEXT[::-1])] * batch, np.int32)[:batch])
    return memory, native, mx.random.normal((batch, len(TEXT), dim)), tokens


def run(memory: FactMemory, native: Any, h: mx.array, tokens: mx.array) -> tuple[dict[str, mx.array], list[mx.array]]:
    table: Any = memory.encode(FactStore(FACTS))
    state: Any = memory.init_state(h.shape[0])
    held, parts = [state[name] for name in _STATE], []
    for t in range(h.shape[1]):
        out = native.address([h[:, t : t + 1], tokens[:, t : t + 1], *(table[name] for name in _TABLE), *held])
        parts.append(out[:4])
        held = out[4:]
    names = ("readout", "copy", "inside", "features")
    return {n: mx.concatenate([p[i] for p in parts], axis=1) for i, n in enumerate(names)}, held


def check(**sizes: int) -> None:
    memory, native, h, tokens = operands(**sizes)
    found, held = run(memory, native, h, tokens)
    address, state = memory.address(h, tokens, memory.encode(FactStore(FACTS)), memory.init_state(h.shape[0]))
    assert mx.max(address["features"][..., 1]).item() > 0.01  # keys were found
    for name, value in found.items():
        assert nrmse(value, address[name]) < 4 * NRMSE["float32"], name  # type: ignore[literal-required]
    for name, value in zip(_STATE, held, strict=True):
        expected = state[name]  # type: ignore[literal-required]
        assert value.shape == expected.shape and value.dtype == expected.dtype
        assert nrmse(value, expected) < 4 * NRMSE["float32"], name
    logits = mx.random.normal((*tokens.shape, 256))
    for t in range(0, tokens.shape[1], 7):
        one: Any = {name: value[:, t : t + 1] for name, value in address.items()}  # type: ignore[attr-defined]
        parts = one["readout"], one["inside"], one["features"]
        for index in range(memory.num_reads):
            got = native.read([h[:, t : t + 1], *parts], index)
            assert nrmse(got, memory.read(h[:, t : t + 1], one, index)) < NRMSE["float32"]
        got = native.copy([logits[:, t : t + 1], one["copy"], one["inside"]])
        assert nrmse(got, logits[:, t : t + 1] + memory.copy_logits(one)) < NRMSE["float32"]


def test_is_the_memory() -> None:
    check()
    check(dim=33, batch=1, num_reads=3, key_dim=15, value_dim=7, top_k=2)


def test_every_instruction_set(isa: str) -> None:
    check(dim=17, key_dim=18)


def test_an_unfolded_text_would_fail() -> None:
    """Sentinel: without folding, the key in capitals is not found."""
    memory, _, h, tokens = operands(batch=1)
    fold, hashes, word = byte_tables()
    sources = [memory[name] for name in _MEMORY]
    blind = decode_facts(sources, [*sources, *map(mx.array, (np.arange(257, dtype=np.int32), hashes, word))], HASH_BASE)
    seen, _ = run(memory, decode_facts(sources, [*sources, *map(mx.array, (fold, hashes, word))], HASH_BASE), h, tokens)
    unseen, _ = run(memory, blind, h, tokens)
    assert nrmse(unseen["features"], seen["features"]) > 1e-3


def test_changed_weights_and_other_memories() -> None:
    model, tokens = build("facts"), mx.array([[65]])
    _, state = model.step(tokens, model.init_state())
    before, _ = model.step(tokens, state)
    model.memory.copy_scale = model.memory.copy_scale + 50.0
    assert not mx.array_equal(model.step(tokens, state)[0], before)

    class Silent(FactMemory):
        def copy_logits(self, address: Any) -> mx.array:
            return mx.zeros_like(address["copy"])

    model.memory.__class__ = Silent
    silent = model.step(tokens, state)[0]
    assert nrmse(silent, model.forward(tokens, state).logits) < 4 * NRMSE["float32"]


def test_tokens_over_the_vocabulary_count_as_the_last() -> None:
    model = build("facts")
    _, state = model.step(mx.array([[65]]), model.init_state())
    logits = [model.step(mx.array([[token]]), state)[0] for token in (255, 256, 9999)]
    assert mx.array_equal(logits[0], logits[1]) and mx.array_equal(logits[0], logits[2])


def test_malformed_input() -> None:
    memory, native, h, tokens = operands()
    table: Any = memory.encode(FactStore(FACTS))
    state: Any = memory.init_state(2)
    rest = [*(table[name] for name in _TABLE), *(state[name] for name in _STATE)]
    with pytest.raises(ValueError, match=r"\[fact_step\] h has the wrong shape, given \(2, 2, 24\)"):
        native.address([h[:, :2], tokens[:, :1], *rest])
    with pytest.raises(ValueError, match=r"\[fact_step\] wrong number of inputs, given 3, allowed: 17"):
        native.address([h, tokens, rest[0]])
    with pytest.raises(ValueError, match=r"\[fact_step\] the table does not fit the state"):
        native.address([h[:, :1], tokens[:, :1], *rest[:7], state["window"][:, :40], *rest[8:]])
    with pytest.raises(ValueError, match=r"\[fact_step\] wrong number of weights"):
        decode_facts([], [h], HASH_BASE)
