"""The fused step against the NumPy reference and against the composed operators, on every kind of model."""

from __future__ import annotations

import copy
import pickle

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx import nn

import ghost_native as gn
from ghost_native.models import Ghost
from ghost_native.models.state import GhostState
from ghost_native.ops.decode_step import decode_available
from ghost_native.reference.decode_step import cheap_ref, decode_ref, tokenize_ref
from tests.ops.decode_operands import KINDS, SHAPES, arrays, build, text
from tests.tolerances import assert_close, nrmse


def stream(model: Ghost, tokens: mx.array, lengths: list[int]) -> tuple[mx.array, GhostState]:
    """Logits of the tokens fed in pieces; single bytes must take the fused path."""
    state, pieces, at = model.init_state(tokens.shape[0]), [], 0
    for n in lengths:
        piece = tokens[:, at : at + n]
        if n == 1:
            fused = model._decoder.step(model, piece, state)
            assert fused is not None
            logits, state = fused
        else:
            logits, state = model.step(piece, state)
        pieces.append(logits)
        at += n
    return mx.concatenate(pieces, axis=1), state


@pytest.mark.parametrize("weights", ["packed", "latent", "float"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_reference(shape, weights):
    model, tokens = build(shape, weights=weights), text(2, 30)
    logits, state = stream(model, tokens, [1] * 30)
    model.pack()
    named = {k: np.array(w.astype(mx.float32) if w.dtype == mx.float16 else w) for k, w in model.weights().items()}
    sizes = {"num_layers": model.config.num_layers, "stride": model.config.stride, "head_dim": model.config.head_dim}
    for b in range(2):
        assert_close(logits[b], decode_ref(named, np.array(tokens[b]), **sizes))
        cheap = cheap_ref(named, tokenize_ref(named, np.array(tokens[b])))
        assert_close(state["cheap"][b, 0], cheap[-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_composed_operators(kind, batch):
    model, tokens = build(kind=kind), text(batch, 41)
    logits, state = stream(model, tokens, [1] * 41)
    whole = model.forward(tokens)
    assert_close(logits, whole.logits)
    if "routed" in kind:
        assert 0 < whole.routed[-1] < 1
    if "facts" in kind:
        model.forget("capital of france")
        assert nrmse(logits, model(tokens)) > 1e-3
    ended, expected = arrays(state), arrays(whole.state)
    for name in expected:
        if "window" not in name and "recent" not in name and "strided" not in name and "memory" not in name:
            assert_close(ended[name], expected[name], what=name)


@settings(max_examples=20)
@given(
    st.lists(st.sampled_from([1, 1, 1, 1, 2, 7]), min_size=1, max_size=50),
    st.sampled_from(["heads", "odd"]),
    st.sampled_from(KINDS),
    st.integers(1, 3),
)
def test_bytes_and_pieces_mix(lengths, shape, kind, batch):
    model, tokens = build(shape, kind), text(batch, sum(lengths))
    assert_close(stream(model, tokens, lengths)[0], model(tokens))


def test_every_instruction_set(isa):
    for shape in SHAPES:
        model, tokens = build(shape), text(2, 24)
        assert_close(stream(model, tokens, [1] * 24)[0], model(tokens))


def test_old_states_stay_usable():
    model, tokens = build(kind="routed and facts"), text(3, 40)
    _, state = stream(model, tokens[:, :20], [1] * 20)
    kept = {name: np.array(x) for name, x in arrays(state).items()}
    copied = copy.deepcopy(state)
    first, end = model.step(tokens[:, 20:21], state)
    for t in range(21, 40):
        _, end = model.step(tokens[:, t : t + 1], end)
    assert all(np.array_equal(np.array(x), kept[name]) for name, x in arrays(state).items())
    for again in (state, copied):
        assert mx.array_equal(model.step(tokens[:, 20:21], again)[0], first)


def test_a_skipped_layer_keeps_its_state():
    model, tokens = build(kind="routed"), text(1, 60)
    state, skipped = model.init_state(1), 0
    for t in range(60):
        depth = model.forward(tokens[:, t : t + 1], state).depth.item()
        _, after = model.step(tokens[:, t : t + 1], state)
        same = [
            all(mx.array_equal(a, b) for a, b in zip(arrays(x).values(), arrays(y).values(), strict=True))
            for x, y in zip(state["layers"], after["layers"], strict=True)
        ]
        assert same == [depth <= l for l in range(3)]
        skipped += sum(same)
        state = after
    assert 0 < skipped < 120


def test_changed_weights_are_noticed():
    model, byte = build(), mx.array([[65]])
    state = model.init_state(1)
    before = model.step(byte, state)[0]
    changes = [
        lambda: model.norm.update({"weight": model.norm.weight * 2}),
        lambda: setattr(model.layers[1].mamba, "D", model.layers[1].mamba.D + 1),
        lambda: model.tokenizer.embedding.__setitem__(65, 0.5),  # in place
        lambda: model.layers.__setitem__(0, build().layers[2]),
    ]
    for change in changes:
        change()
        after = model.step(byte, state)[0]
        assert not mx.array_equal(after, before)
        assert_close(after, model.forward(byte, state).logits)
        before = after


def test_packed_between_two_bytes():
    model, byte = build(weights="latent"), mx.array([[65]])
    state = model.init_state(1)
    before = model.step(byte, state)[0]
    model.pack()
    assert_close(model.step(byte, state)[0], np.array(before))


def test_a_shallow_copy_has_weights_of_its_own():
    model, byte = build(), mx.array([[65]])
    state = model.init_state(1)
    model.step(byte, state)
    other = copy.copy(model)
    other.head = build().head
    other.head.weight = other.head.weight * 2
    assert_close(other.step(byte, state)[0], other.forward(byte, state).logits)


@pytest.mark.parametrize("part", ["norm", "up", "bias", "dtype", "eps"])
def test_what_it_does_not_know_is_left_to_forward(part):
    """Modules of other kinds, biases, half precision: the same answer or the same error as without it."""
    model, byte = build(weights="float"), mx.array([[65]])
    ffn = model.layers[0].ffn
    if part == "norm":
        model.norm.weight = mx.ones((1,))
        with pytest.raises(ValueError, match="wrong shape"):
            model.step(byte, model.init_state(1))
        return
    if part == "up":
        ffn.up = nn.Linear(ffn.up.weight.shape[1], ffn.up.weight.shape[0])
    elif part == "bias":
        model.head.bias = mx.ones((256,))
    elif part == "dtype":
        model.set_dtype(mx.float16)
    else:
        model.norm._eps = 0.5
    state = model.init_state(1)
    assert_close(model.step(byte, state)[0], np.array(model.forward(byte, state).logits.astype(mx.float32)))


def test_other_paths_where_it_does_not_serve():
    model, byte = build(), mx.array([[65]])
    state = model.init_state(1)
    fused = model.step(byte, state)[0]
    with gn.composed_form():
        assert not decode_available([byte])
        assert_close(model.step(byte, state)[0], fused)
    assert_close(mx.compile(lambda x: model.step(x, state)[0])(byte), fused)
    assert model._decoder.step(model, mx.zeros((1, 0), dtype=mx.int32), state) is None
    with pytest.raises(ValueError, match=r"\[Ghost\] tokens must be integers"):
        model.step(mx.zeros((1, 1)), state)
    with pytest.raises(ValueError, match=r"\[Ghost\] tokens must be \(batch, seqlen\)"):
        model.step(mx.zeros((1,), dtype=mx.int32), state)

    def loss(weight):
        model.norm.weight = weight
        return model.step(byte, state)[0].sum()

    assert float(mx.abs(mx.grad(loss)(model.norm.weight)).sum()) > 0


def test_tokens_of_any_integer_type_are_clamped():
    model = build("narrow")
    state = model.init_state(1)
    for token, same in ((400, 258), (-3, 0)):
        assert mx.array_equal(model.step(mx.array([[token]]), state)[0], model.step(mx.array([[same]]), state)[0])
    assert mx.array_equal(
        model.step(mx.array([[200]], dtype=mx.uint8), state)[0], model.step(mx.array([[200]]), state)[0]
    )


def test_states_of_another_batch_are_refused():
    model = build()
    with pytest.raises(ValueError, match=r"\[decode_step\] an input has the wrong shape, given \(2, "):
        model.step(mx.array([[65]]), model.init_state(2))


def test_same_bits_for_any_thread_count():
    model, tokens, before = build("rows"), text(9, 12), gn.num_threads()
    results = []
    for threads in (1, 2, 5):
        gn.set_num_threads(threads)
        results.append(stream(model, tokens, [1] * 12)[0])
        mx.eval(results[-1])
    gn.set_num_threads(before)
    assert all(mx.array_equal(results[0], other) for other in results[1:])


def test_models_with_a_decoder_can_be_copied():
    model = build()
    byte, state = mx.array([[65]]), model.init_state(1)
    logits = model.step(byte, state)[0]
    assert mx.array_equal(copy.deepcopy(model).step(byte, state)[0], logits)
    assert pickle.loads(pickle.dumps(model._decoder))._native is None


def test_a_forgotten_window_row_would_fail():
    model, tokens = build(), text(1, 30)
    state = model.init_state(1)
    for t in range(30):
        logits, state = model.step(tokens[:, t : t + 1], state)
        cache = state["layers"][0]["attention"]
        cache["recent_k"] = cache["recent_k"] * 0
    assert nrmse(logits[:, 0], model(tokens)[:, -1]) > 1e-4
