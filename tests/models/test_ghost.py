from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx import nn
from mlx.utils import tree_flatten, tree_map

from ghost_native import ops
from ghost_native.data.facts import FactGenerator
from ghost_native.models import Ghost, GhostConfig, GhostV6
from ghost_native.nn.routed_rows import RoutedRows
from ghost_native.train.objective import fact_objective, text_objective
from ghost_native.train.run_config import TrainSection
from tests.tolerances import assert_close

SMALL = {"dim": 32, "num_layers": 4, "stride": 4, "head_dim": 16}
KINDS = ["plain", "routed", "facts", "routed and facts", "packed", "float"]


def build(kind: str, **changes) -> Ghost:
    config = GhostConfig(
        **SMALL,
        routing="routed" in kind,
        threshold=0.985,
        weights="float" if kind == "float" else "codebook",
        **changes,
    )
    model = Ghost(config, seed=3)
    # Spread the router's scores, so that every layer has bytes that take it and bytes that skip it.
    model.router.bias = mx.array(0.3)
    model.router.context = model.router.context * 40
    # Much of the memory starts at zero; shake it so that facts matter and gradients flow everywhere.
    model.memory.update(tree_map(lambda w: w + 0.3 * mx.random.normal(w.shape), model.memory.parameters()))
    if "facts" in kind:
        model.store_fact("capital of france", "Paris")
        model.store_fact(b"key two", [0, 255, 10])
    if kind == "packed":
        model.pack()
    mx.eval(model.parameters())
    return model


def text(batch: int, seqlen: int, seed: int = 0) -> mx.array:
    tokens = np.random.default_rng(seed).integers(0, 256, (batch, seqlen))
    prompt = np.frombuffer(b"Q: capital of france? A: ", np.uint8)
    n = min(seqlen, len(prompt))
    tokens[0, :n] = prompt[:n]
    return mx.array(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_causal_at_every_byte(kind):
    """Changing byte t changes no logit, depth or boundary before t, and does change something from t on."""
    model = build(kind)
    tokens = np.array(text(2, 29))
    before = model.forward(mx.array(tokens))
    for t in range(29):
        changed = tokens.copy()
        changed[:, t] = (changed[:, t] + 77) % 256
        after = model.forward(mx.array(changed))
        for name in ("logits", "depth", "surprise", "boundary_logit", "cheap_logits"):
            assert mx.array_equal(getattr(before, name)[:, :t], getattr(after, name)[:, :t]), (name, t)
        assert not mx.array_equal(before.logits[:, t:], after.logits[:, t:]), t


@pytest.mark.parametrize("kind", KINDS)
def test_streaming_equals_batched(kind):
    model = build(kind)
    tokens = text(3, 41)
    whole = model(tokens)
    state, pieces = model.init_state(3), []
    for t in range(41):
        logits, state = model.step(tokens[:, t : t + 1], state)
        pieces.append(logits)
    assert_close(mx.concatenate(pieces, axis=1), whole)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.sampled_from(["routed and facts", "plain"]))
def test_any_pieces_equal_the_whole(lengths, kind):
    model = build(kind)
    tokens = text(2, sum(lengths))
    state, pieces, at = model.init_state(2), [], 0
    for n in lengths:
        logits, state = model.step(tokens[:, at : at + n], state)
        pieces.append(logits)
        at += n
    assert_close(mx.concatenate(pieces, axis=1), model(tokens))


def test_rows_of_a_batch_do_not_mix():
    model = build("routed and facts")
    tokens = text(3, 30)
    whole = model(tokens)
    for b in range(3):
        assert_close(model(tokens[b : b + 1]), whole[b : b + 1])


def test_routing_skips_and_leaves_skipped_bytes_alone():
    model = build("routed")
    out = model.forward(text(4, 50))
    assert out.routed[0] == 1.0
    assert all(a >= b for a, b in zip(out.routed, out.routed[1:], strict=False))
    assert 0 < out.routed[-1] < 0.9
    for l, share in enumerate(out.routed):
        assert share == pytest.approx((np.array(out.depth) > l).mean())
    # One layer by itself: h is unchanged, bit for bit, where depth <= l.
    h = mx.random.normal((4, 50, 32))
    state = model.init_state(4)["layers"][2]
    rows = RoutedRows(h, out.depth)
    model._route_layer(2, model.layers[2], rows, ops.routing_plan(out.depth > 2), state)
    after, _ = rows.together()
    skipped = np.array(out.depth) <= 2
    assert np.array_equal(np.array(after)[skipped], np.array(h)[skipped])
    assert not np.isclose(np.array(after)[~skipped], np.array(h)[~skipped]).all(-1).any()


def test_predictable_bytes_stop_at_min_depth():
    model = build("routed", min_depth=2)
    route = model.route(text(2, 60))
    depth, surprise = np.array(route.depth), np.array(route.surprise)
    assert (depth[surprise < model.config.threshold] <= 2).all()
    assert (depth >= 1).all() and (depth <= 4).all()
    assert model.forward(text(2, 60)).routed[:2] == [1.0, 1.0]


def test_surprise_is_of_the_byte_itself():
    """surprise[t] = 1 - p(byte t) as predicted at t - 1."""
    model = build("plain")
    tokens = text(2, 9)
    out = model.forward(tokens)
    p = np.array(mx.softmax(out.cheap_logits, axis=-1))
    for t in range(1, 9):
        for b in range(2):
            assert float(out.surprise[b, t]) == pytest.approx(1 - p[b, t - 1, int(tokens[b, t])], abs=1e-5)


@pytest.mark.parametrize("kind", ["plain", "routed and facts"])
def test_pack_is_two_bits_and_changes_no_bit_of_the_logits(kind):
    model = build(kind)
    tokens = text(2, 33)
    logits, params, floats = model(tokens), model.count_params(), model.nbytes()
    mx.eval(logits)
    assert model.pack() is model and model.is_packed
    assert mx.array_equal(model(tokens), logits)
    assert model.count_params() == params
    assert model.nbytes() < floats
    for name, layer in model.codebook_layers():
        assert layer.codes.dtype == mx.uint32 and layer.codes.nbytes * 4 == layer.num_weights, name
        assert "weight" not in layer
    assert not any("mamba" in k and k.endswith("proj.weight") for k, _ in tree_flatten(model.parameters()))


@pytest.mark.parametrize("dim", [64, 128, 256])
def test_packed_weights_take_at_most_2_3_bits(dim):
    assert 2.0 < GhostV6(dim=dim, num_layers=4).pack().packed_bits_per_weight() <= 2.3


def test_size_of_the_default_model():
    assert GhostV6(dim=256, num_layers=6).count_params() == pytest.approx(6.58e6, rel=0.02)


@pytest.mark.parametrize("kind", ["facts", "packed", "float"])
def test_save_and_load(kind, tmp_path):
    model = build(kind)
    model.store_fact("all bytes", bytes(range(50)))
    path = tmp_path / "deep" / "ghost.safetensors"
    model.save(path)
    again = Ghost.load(path)
    assert again.config == model.config and again.facts() == model.facts() and again.is_packed == model.is_packed
    assert mx.array_equal(again(text(2, 20)), model(text(2, 20)))
    assert [p.name for p in path.parent.iterdir()] == ["ghost.safetensors"]


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "ghost.safetensors"
    model = build("plain")
    model.save(path)
    before = path.read_bytes()

    def full_disk(name, *_):
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mx, "save_safetensors", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_load_refuses_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\[Ghost.load\] no such checkpoint"):
        Ghost.load(tmp_path / "none.safetensors")
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x08garbage")
    with pytest.raises(ValueError, match=r"\[Ghost.load\] .* is not a whole safetensors file"):
        Ghost.load(path)
    mx.save_safetensors(str(path), {"a": mx.zeros((2,))})
    with pytest.raises(ValueError, match="is no Ghost checkpoint, given format None"):
        Ghost.load(path)
    build("plain").save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"\[Ghost.load\]"):
        Ghost.load(path)


def test_facts_are_heard_by_running_streams():
    model = build("plain")
    tokens = text(1, 24)
    state = model.init_state()
    _, state = model.step(tokens, state)
    model.store_fact("capital of france", "Paris")
    with_fact, after = model.step(tokens, state)
    assert after["memory"] is not None
    model.forget("Capital of France")
    with pytest.raises(KeyError, match="is not stored"):
        model.forget("capital of france")
    without, _ = model.step(tokens, state)
    assert not mx.array_equal(with_fact, without)
    assert model.facts() == {}


def test_segment_concatenates_to_the_text():
    model = build("plain")
    model.tokenizer.boundary_bias = mx.array(0.0)
    for value in ["", "hello world", "naïve café", bytes(range(256))]:
        pieces = model.segment(value, threshold=0.52)
        assert b"".join(pieces) == (value.encode() if isinstance(value, str) else value)
        assert all(pieces)


def test_streaming_state_stays_small():
    """All of a stream's state is constant but the strided keys: one row of keys and values per stride bytes."""

    def sizes(n):
        state = model.init_state()
        for at in range(0, n, 500):
            _, state = model.step(tokens[:, at : at + 500], state)
        arrays = {k: v.nbytes for k, v in tree_flatten(state) if isinstance(v, mx.array)}
        far = sum(v for k, v in arrays.items() if "strided" in k)
        return sum(arrays.values()) - far, far

    model = Ghost(GhostConfig(dim=32, num_layers=4, stride=50))
    tokens = text(1, 4000)
    (fixed_a, far_a), (fixed_b, far_b) = sizes(1000), sizes(4000)
    assert fixed_a == fixed_b
    assert far_b == 4 * far_a == (4000 // 50) * 32 * 4 * 2


def test_streams_take_flat_memory_even_when_only_logits_are_evaluated():
    """No graph is carried from step to step: whatever a state holds depends on its own step alone."""
    model = Ghost(GhostConfig(dim=32, num_layers=2, stride=1000))
    mx.eval(model.parameters())
    byte, state, held = mx.array([[65]]), model.init_state(), []
    for t in range(600):
        logits, state = model.step(byte, state)
        mx.eval(logits)
        if t in (200, 599):
            held.append(mx.get_active_memory())
    assert held[1] - held[0] < 200_000


def test_a_stream_does_not_answer_with_a_fact_stored_after_another_was_forgotten():
    model = build("plain")
    model.store_fact("capital of france", "Paris")
    _, state = model.step(text(1, 24), model.init_state())
    model.forget("capital of france")
    model.store_fact("wifi password", "hunter2")
    _, after = model.step(mx.array([[32]]), state)
    row = model.fact_store.row("wifi password")
    assert after["memory"] is not None
    assert row not in np.array(after["memory"]["state"]["hit_row"])


def test_every_trainable_weight_gets_a_gradient():
    model = build("routed")
    config = TrainSection()
    batch = FactGenerator(1).batch(4, 64, 6)
    arrays = batch.arrays()
    tokens = text(3, 40)

    def loss():
        on_text = text_objective(model, tokens[:, :-1], tokens[:, 1:], None, config).total
        return on_text + fact_objective(model, batch.pack(6), arrays, config).total

    gradients = dict(tree_flatten(nn.value_and_grad(model, loss)()[1]))
    assert set(gradients) == {k for k, _ in tree_flatten(model.trainable_parameters())}
    for name, g in gradients.items():
        assert bool(mx.isfinite(g).all()), name
        assert float(mx.abs(g).max()) > 0, name


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (mx.zeros((3,), dtype=mx.int32), r"\[Ghost\] tokens must be \(batch, seqlen\), given shape \(3,\)"),
        (mx.zeros((3, 2)), r"\[Ghost\] tokens must be integers, given mlx.core.float32"),
    ],
)
def test_malformed_tokens(tokens, message):
    with pytest.raises(ValueError, match=message):
        build("plain")(tokens)


def test_tokens_out_of_range_are_clamped():
    model = build("plain")
    assert mx.array_equal(model(mx.array([[300, -4]])), model(mx.array([[255, 0]])))
    special = Ghost(GhostConfig(**SMALL, num_specials=2), seed=0)
    logits = special(mx.array([[256, 257, 65]]))
    assert logits.shape == (1, 3, 256) and bool(mx.isfinite(logits).all())
    assert not mx.array_equal(special(mx.array([[256]])), special(mx.array([[257]])))
