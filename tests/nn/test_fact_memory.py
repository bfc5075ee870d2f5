"""FactMemory: causal, the same in one piece or many, silent away from answers; the matcher against a plain oracle."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from ghost_native.nn.fact_memory import FactAddress, FactMemory, FactTable
from ghost_native.nn.fact_store import NULL_ROW, FactStore
from tests.tolerances import NRMSE, nrmse

DIM = 24
FACTS = {"capital of france": "Paris", "age": "12", "c++": "a language", "king of france": "nobody", "q7": "x"}
TEXT = b"Q: capital of FRANCE? A: Paris\nthe age of c++ is (age) a language. q7\n> kings of france, king of france: no"


def build(seed: int = 0, **kwargs: int) -> FactMemory:
    """A memory whose zero-initialised parts are random, so that every path carries signal."""
    mx.random.seed(seed)
    memory = FactMemory(DIM, key_dim=16, value_dim=8, **kwargs)
    for name in ("start_out", "hit_hidden", "hit_out", "gate_hidden", "gate_gram", "read_gate"):
        memory[name] = mx.random.normal(memory[name].shape) * 0.3
    memory.start_bias = mx.array(-1.5)
    return memory


def inputs(batch: int = 2, text: bytes = TEXT, seed: int = 1) -> tuple[mx.array, mx.array]:
    rows = [text if i % 2 == 0 else text[::-1] for i in range(batch)]
    tokens = mx.array(np.array([list(row) for row in rows], np.int32))
    return mx.random.normal((*tokens.shape, DIM), key=mx.random.key(seed)), tokens


def stream(
    memory: FactMemory, h: mx.array, tokens: mx.array, table: FactTable, sizes: list[int]
) -> dict[str, mx.array]:
    state, at, parts = memory.init_state(h.shape[0]), 0, []
    for size in sizes:
        part, state = memory.address(h[:, at : at + size], tokens[:, at : at + size], table, state)
        parts.append(part)
        at += size
    assert at == h.shape[1]
    return {name: mx.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def split_sizes(total: int, sizes: list[int]) -> list[int]:
    out: list[int] = []
    while sum(out) < total:
        out.append(min(sizes[len(out) % len(sizes)], total - sum(out)))
    return out


@pytest.mark.parametrize("sizes", [[1], [2, 1, 31], [33, 32], [64, 5]])
def test_pieces_equal_one_call(sizes: list[int]) -> None:
    memory, (h, tokens) = build(), inputs()
    table = memory.encode(FactStore(FACTS))
    whole, _ = memory.address(h, tokens, table, memory.init_state(2))
    parts = stream(memory, h, tokens, table, split_sizes(h.shape[1], sizes))
    for name, value in whole.items():
        assert nrmse(parts[name], value) < 2 * NRMSE["float32"], name
    reads = memory.read(h, whole, 1), memory.read(h, FactAddress(**parts), 1)
    assert nrmse(reads[1], reads[0]) < 2 * NRMSE["float32"]


def test_a_forgotten_state_is_noticed() -> None:
    """Sentinel: dropping any single entry of the state between two pieces breaks the equality."""
    memory, (h, tokens) = build(), inputs(1, TEXT[:29])
    table = memory.encode(FactStore(FACTS))
    whole, _ = memory.address(h, tokens, table, memory.init_state(1))
    cut, fresh = 27, memory.init_state(1)
    for name in fresh:
        _, state = memory.address(h[:, :cut], tokens[:, :cut], table, memory.init_state(1))
        state[name] = fresh[name]
        tail, _ = memory.address(h[:, cut:], tokens[:, cut:], table, state)
        if name == "hit_age":
            assert nrmse(tail["start_logit"], whole["start_logit"][:, cut:]) > NRMSE["float32"]
        else:
            worst = max(nrmse(tail[k], whole[k][:, cut:]) for k in ("scores", "copy", "inside", "start_logit"))
            assert worst > 10 * NRMSE["float32"], name


def test_long_texts_go_through_in_blocks() -> None:
    memory = build()
    h, tokens = inputs(1, TEXT * 12)
    table = memory.encode(FactStore(FACTS))
    assert h.shape[1] > 1100
    whole, _ = memory.address(h, tokens, table, memory.init_state(1))
    parts = stream(memory, h, tokens, table, split_sizes(h.shape[1], [500]))
    assert nrmse(parts["readout"], whole["readout"]) < 4 * NRMSE["float32"]


@pytest.mark.parametrize("at", [0, 1, 17, 24, 31, 32, 33, 70, len(TEXT) - 1])
def test_causal(at: int) -> None:
    memory, (h, tokens) = build(), inputs()
    table = memory.encode(FactStore(FACTS))
    before, _ = memory.address(h, tokens, table, memory.init_state(2))
    changed_tokens, changed_h = np.array(tokens), np.array(h)
    changed_tokens[:, at] = (changed_tokens[:, at] * 7 + 13) % 128
    changed_h[:, at] += 1.0
    after, _ = memory.address(mx.array(changed_h), mx.array(changed_tokens), table, memory.init_state(2))
    for name, value in before.items():
        assert mx.array_equal(value[:, :at], after[name][:, :at]), name  # type: ignore[index]
    assert not mx.array_equal(before["start_logit"][:, at:], after["start_logit"][:, at:])


def test_batch_rows_do_not_mix() -> None:
    memory, (h, tokens) = build(), inputs()
    table = memory.encode(FactStore(FACTS))
    both, _ = memory.address(h, tokens, table, memory.init_state(2))
    alone, _ = memory.address(h[1:], tokens[1:], table, memory.init_state(1))
    assert nrmse(both["readout"][1:], alone["readout"]) < NRMSE["float32"]


def test_padding_rows_change_nothing() -> None:
    memory, (h, tokens) = build(), inputs()
    store = FactStore(FACTS)
    small = memory.encode(store.pack())
    large = memory.encode(store.pack(min_rows=200, min_key=48, min_value=48))
    a, _ = memory.address(h, tokens, small, memory.init_state(2))
    b, _ = memory.address(h, tokens, large, memory.init_state(2))
    for name in ("readout", "copy", "inside", "log_norm", "start_logit"):
        assert nrmse(b[name], a[name]) < 2 * NRMSE["float32"], name  # type: ignore[literal-required]


def test_state_does_not_grow() -> None:
    memory, (h, tokens) = build(), inputs(2)
    table = memory.encode(FactStore(FACTS))
    fresh = memory.init_state(2)
    _, state = memory.address(h, tokens, table, fresh)
    assert {k: (v.shape, v.dtype) for k, v in state.items()} == {k: (v.shape, v.dtype) for k, v in fresh.items()}  # type: ignore[attr-defined]
    assert memory.state_bytes() == sum(v.nbytes for v in fresh.values()) // 2  # type: ignore[attr-defined]
    assert memory.state_bytes() < 4096


def answering() -> FactMemory:
    """A memory whose start detector listens to one hidden unit only; nothing is trained."""
    mx.random.seed(3)
    memory = FactMemory(DIM, key_dim=16, value_dim=8)
    width = memory.start_out.shape[1]
    memory.start_in = 6.0 * (mx.arange(width)[:, None] == 0) * (mx.arange(DIM + 2)[None] == 0)
    memory.start_out = 1.0 * (mx.arange(width)[None] == 0)
    memory.start_bias = mx.array(-15.0)
    return memory


def asked(prompt: bytes, answer: bytes) -> tuple[mx.array, mx.array]:
    """Hidden states that fire the start detector on the prompt's last byte."""
    tokens = mx.array([list(prompt + answer)])
    at = mx.arange(tokens.shape[1])[None, :, None] == len(prompt) - 1
    return mx.where(at & (mx.arange(DIM) == 0), 10.0, 0.01), tokens


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (b"Q: capital of france? A: ", b"Paris"),
        (b"Q: King of France? A: ", b"nobody"),
        (b"age=", b"12"),
        (b"say c++, ", b"a language"),
        (b"Q: capital of frances? A: ", b"unknown"),
        (b"Q: a capital offrance? A: ", b"unknown"),
    ],
)
def test_an_untrained_memory_reads_the_right_bytes(prompt: bytes, answer: bytes) -> None:
    memory, (h, tokens) = answering(), asked(prompt, answer)
    address, _ = memory.address(h, tokens, memory.encode(FactStore(FACTS)), memory.init_state(1))
    said = mx.argmax(address["copy"], axis=-1)[0, len(prompt) - 1 :].tolist()
    assert bytes(said) == answer + b"\n"
    inside = address["inside"][0]
    assert mx.all(inside[len(prompt) - 1 :] > 0.5).item()
    assert mx.all(inside[: len(prompt) - 1] < 1e-3).item()


def test_a_key_inside_an_answer_does_not_divert_it() -> None:
    facts = {**FACTS, "motto": "the age of reason"}
    memory, (h, tokens) = answering(), asked(b"motto: ", b"the age of reason")
    address, _ = memory.address(h, tokens, memory.encode(FactStore(facts)), memory.init_state(1))
    assert bytes(mx.argmax(address["copy"], axis=-1)[0, 6:].tolist()) == b"the age of reason\n"


def test_away_from_answers_the_text_is_left_alone() -> None:
    memory = answering()
    tokens = mx.array([list(TEXT)])
    h = mx.broadcast_to(mx.where(mx.arange(DIM) == 0, -0.01, 0.01), (1, len(TEXT), DIM))
    address, _ = memory.address(h, tokens, memory.encode(FactStore(FACTS)), memory.init_state(1))
    for index in range(2):
        assert mx.max(mx.abs(memory.read(h, address, index) - h)).item() < 1e-3
    assert mx.max(mx.abs(memory.copy_logits(address))).item() < 1e-3


def test_store_and_forget_in_the_middle_of_a_stream() -> None:
    memory, store = answering(), FactStore(FACTS)
    (h, tokens), prompt = asked(b"Q: capital of france? A: ", b"Paris"), 25
    _, state = memory.address(h[:, : prompt - 1], tokens[:, : prompt - 1], memory.encode(store), memory.init_state(1))
    store.forget("age")
    for i in range(40):
        store.store(f"filler {i}", "nothing")
    address, _ = memory.address(h[:, prompt - 1 :], tokens[:, prompt - 1 :], memory.encode(store), state)
    assert bytes(mx.argmax(address["copy"], axis=-1)[0].tolist()) == b"Paris\n"


def test_an_empty_table_is_allowed_and_answers_unknown() -> None:
    memory, (h, tokens) = answering(), asked(b"Q: capital of france? A: ", b"unknown")
    address, _ = memory.address(h, tokens, memory.encode(FactStore()), memory.init_state(1))
    assert bytes(mx.argmax(address["copy"], axis=-1)[0, 24:].tolist()) == b"unknown\n"


def test_half_precision_hidden_state() -> None:
    memory, (h, tokens) = build(), inputs()
    table = memory.encode(FactStore(FACTS))
    half = h.astype(mx.float16)
    address, _ = memory.address(half, tokens, table, memory.init_state(2))
    assert address["readout"].dtype == mx.float32
    out = memory.read(half, address, 0)
    assert out.dtype == mx.float16
    exact, _ = memory.address(half.astype(mx.float32), tokens, table, memory.init_state(2))
    assert mx.array_equal(exact["readout"], address["readout"])
    assert nrmse(out, memory.read(half.astype(mx.float32), exact, 0)) < NRMSE["float16"]


def objective(memory: FactMemory, h: mx.array, tokens: mx.array, packed: Any) -> mx.array:
    address, _ = memory.address(h, tokens, memory.encode(packed), memory.init_state(h.shape[0]))
    out = memory.read(memory.read(h, address, 0), address, 1)
    cotangent = mx.random.normal(out.shape, key=mx.random.key(5))
    pointer = memory.copy_logits(address)
    cotangent_pointer = mx.random.normal(pointer.shape, key=mx.random.key(6))
    fact = mx.where(mx.arange(tokens.shape[1]) % 5 == 0, mx.arange(tokens.shape[1]) % 4, -1)
    fact = mx.broadcast_to(fact, tokens.shape)
    start = (fact >= 0).astype(mx.float32)
    total = memory.loss(address, fact, start, mx.ones(tokens.shape))
    return total + mx.sum(out * cotangent) + mx.sum(pointer * cotangent_pointer)


def test_gradients_reach_every_parameter() -> None:
    memory, (h, tokens) = build(), inputs()
    loss, grads = nn.value_and_grad(memory, objective)(memory, h, tokens, memory.pack(FactStore(FACTS)))
    assert np.isfinite(loss.item())
    named = dict(tree_flatten(grads))
    assert set(named) == set(dict(tree_flatten(memory.parameters())))
    for name, grad in named.items():
        assert mx.all(mx.isfinite(grad)).item(), name
        assert mx.max(mx.abs(grad)).item() > 0, name


def test_gradient_against_finite_differences() -> None:
    memory, (h, tokens) = build(top_k=5), inputs(1, TEXT[:40])  # all rows: choosing the best few is a step
    packed = memory.pack(FactStore(FACTS))
    grads = dict(tree_flatten(nn.value_and_grad(memory, objective)(memory, h, tokens, packed)[1]))
    for name in (
        "score_scale",
        "gate_bias",
        "start_bias",
        "position_scale",
        "value_embedding",
        "gram_out",
        "null_score",
    ):
        value = memory[name]
        direction = mx.random.normal(value.shape, key=mx.random.key(9))
        direction, step = direction / mx.sqrt(mx.sum(direction * direction)), 1e-2
        sides = []
        for sign in (1, -1):
            memory[name] = value + sign * step * direction
            sides.append(objective(memory, h, tokens, packed).item())
        memory[name] = value
        slope = mx.sum(grads[name] * direction).item()
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(slope, rel=2e-2, abs=2e-2), name


def test_compiled_equals_plain_and_is_reused() -> None:
    memory, (h, tokens) = build(), inputs(1, TEXT[:40])
    traces = 0

    def run(h: mx.array, tokens: mx.array, packed: Any) -> mx.array:
        nonlocal traces
        traces += 1
        address, _ = memory.address(h, tokens, memory.encode(packed), memory.init_state(1))
        return memory.read(h, address, 0)

    fast = mx.compile(run)
    for facts in (FACTS, {"age of the earth": "4.5 billion years"}):
        packed = FactStore(facts).pack(min_key=32, min_value=32)
        assert nrmse(fast(h, tokens, packed), run(h, tokens, packed)) < 4 * NRMSE["float32"]
    assert traces == 3  # once for the trace, twice for the plain calls


def test_loss_prefers_the_right_fact_and_start() -> None:
    memory, (h, tokens) = answering(), asked(b"Q: capital of france? A: ", b"Paris")
    store = FactStore(FACTS)
    address, _ = memory.address(h, tokens, memory.encode(store), memory.init_state(1))
    start = (mx.arange(tokens.shape[1])[None] == 24).astype(mx.float32)
    mask = mx.ones(tokens.shape)

    def loss(row: int, start: mx.array) -> float:
        return memory.loss(address, mx.where(start > 0, row, -1), start, mask).item()

    right = store.row("capital of france")
    assert loss(right, start) < 0.5
    assert loss(store.row("age"), start) > loss(right, start) + 2
    assert loss(NULL_ROW, start) > loss(right, start) + 0.5
    late = (mx.arange(tokens.shape[1])[None] == 26).astype(mx.float32)
    assert loss(right, late) > loss(right, start) + 1


def test_sizes() -> None:
    def count(dim: int) -> int:
        return sum(int(v.size) for _, v in tree_flatten(FactMemory(dim).parameters()))

    assert count(256) <= 100_000
    assert count(128) <= 60_000


def test_memory_errors() -> None:
    with pytest.raises(ValueError, match=r"\[FactMemory\] top_k must be at least 1, got 0"):
        FactMemory(DIM, top_k=0)
    memory, (h, tokens) = build(max_key=16, max_value=15), inputs()
    table = memory.encode(FactStore({"a": "b"}))
    with pytest.raises(ValueError, match=r"\[FactMemory.pack\].*key of 17"):
        memory.encode(FactStore({"capital of france": "Paris"}))
    with pytest.raises(ValueError, match=r"\[FactMemory.address\] tokens must be"):
        memory.address(h, tokens[:, :-1], table, memory.init_state(2))
    with pytest.raises(ValueError, match=r"\[FactMemory.address\] seqlen must be at least 1"):
        memory.address(h[:, :0], tokens[:, :0], table, memory.init_state(2))
    with pytest.raises(ValueError, match=r"\[FactMemory.address\] the table's keys"):
        memory.address(h, tokens, build().encode(FactStore({"k" * 40: "v"})), memory.init_state(2))
    address, _ = memory.address(h, tokens, table, memory.init_state(2))
    with pytest.raises(ValueError, match=r"\[FactMemory.read\] index must be in 0..1, got 2"):
        memory.read(h, address, 2)
