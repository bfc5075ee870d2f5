"""Several bytes of every stream at once: against forward(), in pieces of any length, in every mode."""

from __future__ import annotations

import copy

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ghost_native as gn
from ghost_native import _ext
from ghost_native.models import Ghost
from ghost_native.models.state import GhostState
from ghost_native.ops.decode_step import decode_available
from ghost_native.reference.decode_step import decode_ref
from tests.ops.decode_operands import KINDS, SHAPES, arrays, build, text
from tests.tolerances import assert_close, nrmse

# Logits of reduced products, which round what differs in the last bit to different steps here and there.
REDUCED = {"bfloat16": 2e-3, "int8": 5e-3}


def fused(model: Ghost, tokens: mx.array, state: GhostState) -> tuple[mx.array, GhostState]:
    """A step that must take the fused path."""
    result = model._decoder.step(model, tokens, state)
    assert result is not None
    return result


def pieces(model: Ghost, tokens: mx.array, lengths: list[int]) -> tuple[mx.array, GhostState]:
    state, logits, at = model.init_state(tokens.shape[0]), [], 0
    for n in lengths:
        piece, state = fused(model, tokens[:, at : at + n], state)
        logits.append(piece)
        at += n
    return mx.concatenate(logits, axis=1), state


def assert_same_state(state: GhostState, expected: GhostState) -> None:
    """But for rows of caches that no sequence has filled, and for where new keys are kept."""
    ended, other = arrays(state), arrays(expected)
    for name in other:
        if "window" not in name and "recent" not in name and "strided" not in name and "memory" not in name:
            assert_close(ended[name], other[name], what=name)


@pytest.mark.parametrize("weights", ["packed", "latent", "float"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_reference(shape, weights):
    model, tokens = build(shape, weights=weights), text(2, 40)
    logits, _ = fused(model, tokens, model.init_state(2))
    model.pack()
    named = {k: np.array(w.astype(mx.float32) if w.dtype == mx.float16 else w) for k, w in model.weights().items()}
    sizes = {"num_layers": model.config.num_layers, "stride": model.config.stride, "head_dim": model.config.head_dim}
    for b in range(2):
        assert_close(logits[b], decode_ref(named, np.array(tokens[b]), **sizes))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_forward(shape, kind, batch):
    for seqlen in (2, 7, 31, 33, 67):
        model, tokens = build(shape, kind), text(batch, seqlen)
        logits, state = fused(model, tokens, model.init_state(batch))
        whole = model.forward(tokens)
        assert_close(logits, whole.logits)
        assert_same_state(state, whole.state)


def test_longer_than_a_chunk():
    for kind in ("plain", "routed"):
        model, tokens = build(kind=kind), text(2, 700)
        whole = model.forward(tokens)
        for lengths in ([700], [1, 513, 186], [64, 600, 1, 35]):
            logits, state = pieces(model, tokens, lengths)
            assert_close(logits, whole.logits)
            assert_same_state(state, whole.state)


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from([1, 1, 2, 5, 20, 33, 70]), min_size=1, max_size=8),
    st.sampled_from(list(SHAPES)),
    st.sampled_from(KINDS),
    st.integers(1, 3),
)
def test_pieces_and_bytes_mix(lengths, shape, kind, batch):
    model, tokens = build(shape, kind), text(batch, sum(lengths))
    logits, state = pieces(model, tokens, lengths)
    whole = model.forward(tokens)
    assert_close(logits, whole.logits)
    # forward() goes on from the state, and comes back to it.
    assert_close(model.forward(tokens, state).logits, model.forward(tokens, whole.state).logits)


@pytest.mark.parametrize("activation", REDUCED)
@pytest.mark.parametrize("seqlen", [7, 15, 130])
def test_reduced_products(activation, seqlen):
    model, tokens = build("rows"), text(2, seqlen)
    state = model.init_state(2)
    exact = fused(model, tokens, state)[0]
    model.set_activation(activation)
    reduced = model._decoder.step(model, tokens, state)
    expected = model.forward(tokens, state).logits
    if reduced is None:  # a CPU without instructions for it
        assert _ext.measure_peak(activation, 0) is None
        assert mx.array_equal(model.step(tokens, state)[0], expected)
        return
    assert nrmse(reduced[0], expected) < REDUCED[activation]
    assert nrmse(reduced[0], exact) > 1e-5
    if activation == "int8":  # whole numbers add up to the same in any order
        assert_close(reduced[0], expected)


def test_layers_of_different_modes_are_left_to_forward():
    model, tokens = build("rows"), text(1, 40)
    model.layers[0].ffn.up.activation = "int8"
    state = model.init_state(1)
    assert model._decoder.step(model, tokens, state) is None
    assert mx.array_equal(model.step(tokens, state)[0], model.forward(tokens, state).logits)
    assert model._decoder.step(model, tokens[:, :1], state) is not None
    latent = build("rows", weights="latent").set_activation("int8")
    assert latent._decoder.step(latent, tokens, latent.init_state(1)) is None


def test_every_instruction_set(isa):
    for shape in SHAPES:
        model, tokens = build(shape), text(2, 45)
        for lengths in ([45], [9, 36]):
            assert_close(pieces(model, tokens, lengths)[0], model(tokens))
    for activation, limit in REDUCED.items():
        model = build("rows").set_activation(activation)
        state = model.init_state(2)
        assert nrmse(model.step(tokens, state)[0], model.forward(tokens, state).logits) < limit


def test_old_states_stay_usable():
    model, tokens = build(kind="routed and facts"), text(3, 60)
    _, state = fused(model, tokens[:, :37], model.init_state(3))
    kept = {name: np.array(x) for name, x in arrays(state).items()}
    copied = copy.deepcopy(state)
    first, _ = fused(model, tokens[:, 37:], state)
    assert all(np.array_equal(np.array(x), kept[name]) for name, x in arrays(state).items())
    assert mx.array_equal(fused(model, tokens[:, 37:], copied)[0], first)


@pytest.mark.parametrize("activation", ["float32", "bfloat16", "int8"])
def test_same_bits_for_any_thread_count(activation):
    model, before = build("rows").set_activation(activation), gn.num_threads()
    for batch, seqlen in ((1, 600), (9, 12)):
        tokens, results = text(batch, seqlen), []
        for threads in (1, 2, 5):
            gn.set_num_threads(threads)
            logits, state = model.step(tokens, model.init_state(batch))
            results.append([np.array(x) for x in (logits, *arrays(state).values())])
        gn.set_num_threads(before)
        for other in results[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_other_paths_where_it_does_not_serve():
    model, tokens = build(), text(2, 35)
    state = model.init_state(2)
    logits = fused(model, tokens, state)[0]
    with gn.composed_form():
        assert not decode_available([tokens])
        assert_close(model.step(tokens, state)[0], logits)

    def loss(weight):
        model.norm.weight = weight
        return model.step(tokens, state)[0].sum()

    assert float(mx.abs(mx.grad(loss)(model.norm.weight)).sum()) > 0
    with pytest.raises(ValueError, match=r"\[decode_step\] an input has the wrong shape, given \(2, "):
        build().step(tokens[:1], state)


def test_a_forgotten_recent_row_would_fail():
    model, tokens = build(), text(1, 40)
    _, state = pieces(model, tokens, [1] * 4)
    cache = state["layers"][0]["attention"]
    assert cache["recent_k"].shape[1] == 4
    expected = model(tokens)[:, 4:]
    assert_close(fused(model, tokens[:, 4:], state)[0], expected)
    cache["recent_k"] = cache["recent_k"] * 0
    assert nrmse(fused(model, tokens[:, 4:], state)[0], expected) > 1e-4
