from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

import ghost_native as gn
from ghost_native import _ext
from ghost_native.generate import generate, generate_text
from ghost_native.models import Ghost, Transformer, TransformerConfig
from ghost_native.models.export import export_model, import_model
from ghost_native.nn import causal_attention
from ghost_native.nn.gated_feed_forward import silu
from tests.models.transformer_models import SMALL, build, float_weights, reference, text
from tests.tolerances import NRMSE, assert_close, nrmse

FORMS = {
    "silu": {},
    "gelu": {"ffn_activation": "gelu"},
    "untied": {"tie_embeddings": False},
    "one head": {"n_heads": 1},
    "one layer": {"n_layers": 1, "d_model": 10, "n_heads": 5},
}


# -- against the reference --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seqlen", [1, 2, 33])
def test_logits_are_those_of_the_reference(form, seqlen):
    model = build(**FORMS[form])
    tokens = text(3, seqlen)
    logits = model(tokens)
    assert logits.shape == (3, seqlen, SMALL["vocab_size"]) and logits.dtype == mx.float32
    assert_close(logits, reference(model, tokens))


def test_attention_of_other_devices_computes_the_same(monkeypatch):
    """GPUs take MLX's own attention, and CPUs may be told to compose our operators of MLX's."""
    model, tokens = build(), text(2, 40)
    expected = reference(model, tokens)
    with gn.composed_form():
        assert_close(model(tokens), expected)
    monkeypatch.setattr(causal_attention, "_attend_fused", causal_attention._attend_fast)
    assert_close(model(tokens), expected)
    _, state = model.step(tokens[:, :17], model.init_state(2))
    logits, _ = model.step(tokens[:, 17:], state)
    assert_close(logits, expected[:, 17:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"rope_theta": 101.0},
        {"norm_eps": 2e-4},
        {"n_heads": 2},
        {"ffn_activation": "gelu"},
        {"max_seq_len": 30},
    ],
    ids=lambda w: next(iter(w)),
)
def test_what_is_wrong_exceeds_the_tolerance(wrong):
    right, tokens = build(), text(2, 33)
    model = build(**wrong)
    held = {k: v for k, v in right.weights().items() if k in model.weights()}
    model.load_weights(list(held.items()))
    assert nrmse(model(tokens), reference(right, tokens)) > 5 * NRMSE["float32"]


def test_silu():
    x = mx.random.normal((2, 7, 5)) * 4
    exact = np.array(x, np.float64)
    assert_close(silu(x), exact / (1 + np.exp(-exact)))
    assert silu(x.astype(mx.bfloat16)).dtype == mx.bfloat16
    assert silu(x[:, :0]).shape == (2, 0, 5)


def test_rotation_is_that_of_mlx():
    x = mx.random.normal((2, 9, 24))
    table = causal_attention.rotary_table(30, 8, 500.0)
    heads = x.reshape(2, 9, 3, 8).swapaxes(1, 2)
    expected = mx.fast.rope(heads, 8, traditional=False, base=500.0, scale=1.0, offset=11)
    assert_close(causal_attention.rotate(x, table.rows(11, 20)), expected.swapaxes(1, 2).reshape(2, 9, 24))


# -- streams ----------------------------------------------------------------------------------------------------------


def test_causal_at_every_token():
    model = build()
    tokens = np.array(text(2, 19))
    before = model(mx.array(tokens))
    for t in range(19):
        changed = tokens.copy()
        changed[:, t] = (changed[:, t] + 5) % SMALL["vocab_size"]
        after = model(mx.array(changed))
        assert mx.array_equal(before[:, :t], after[:, :t]), t
        assert not mx.array_equal(before[:, t:], after[:, t:]), t


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 13), min_size=1, max_size=7),
    limit=st.integers(1, 16),
    form=st.sampled_from(["silu", "packed", "no cache to grow"]),
)
def test_any_pieces_equal_the_whole(lengths, limit, form):
    """Also where the text is longer than the context."""
    model = build(max_seq_len=limit, weights="codebook" if form == "packed" else "float")
    if form == "packed":
        model.pack()
    tokens = text(2, sum(lengths))
    state, pieces, at = model.init_state(2), [], 0
    if form == "no cache to grow" and lengths[0]:
        at = lengths.pop(0)
        out = model.forward(tokens[:, :at])
        pieces, state = [out.logits], out.state
    for n in lengths:
        logits, state = model.step(tokens[:, at : at + n], state)
        pieces.append(logits)
        at += n
    assert_close(mx.concatenate(pieces, axis=1), model(tokens))


@pytest.mark.parametrize("limit", [1, 2, 5, 8])
def test_a_full_context_begins_anew_with_its_last_half(limit):
    """Every position's logits are those of a text that begins where its context does."""
    model, tokens = build(max_seq_len=limit), text(2, 23)
    logits, fresh = model(tokens), limit - limit // 2
    for t in range(23):
        begin = 0 if t < limit else (t - limit) // fresh * fresh + fresh
        assert 0 < t + 1 - begin <= limit
        assert_close(logits[:, t], reference(model, tokens[:, begin : t + 1])[:, -1])


def test_rows_of_a_batch_do_not_mix():
    model, tokens = build(), text(3, 20)
    whole = model(tokens)
    for b in range(3):
        assert_close(model(tokens[b : b + 1]), whole[b : b + 1])


def test_old_states_stay_usable():
    model, tokens = build(), text(1, 30)
    whole = model(tokens)
    _, state = model.step(tokens[:, :20], model.init_state())
    for _ in range(2):
        first, after = model.step(tokens[:, 20:21], state)
        other, _ = model.step(tokens[:, 5:6], state)
        mx.eval(first, other)
        second, _ = model.step(tokens[:, 21:22], after)
        assert_close(mx.concatenate([first, second], axis=1), whole[:, 20:22])


def test_streams_take_flat_memory_even_when_only_logits_are_evaluated():
    """No graph is carried from step to step, and rows are written into the cache in place."""
    model = build(max_seq_len=100)
    token, state, held = mx.array([[7]]), model.init_state(), []
    for t in range(1000):
        logits, state = model.step(token, state)
        mx.eval(logits)
        if t % 100 == 90:
            held.append(mx.get_active_memory())
    assert max(held) - held[0] < 50_000


def test_rows_that_were_never_written_are_never_read():
    model, tokens = build(), text(2, 12)
    _, state = model.step(tokens[:, :5], model.init_state(2))
    for layer in state["layers"]:
        for name in ("k", "v"):
            layer[name][:, 5:] = float("nan")
    assert_close(model.step(tokens[:, 5:], state)[0], model(tokens)[:, 5:])


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_are_clamped_into_the_vocabulary():
    model = build()
    assert mx.array_equal(model(mx.array([[-3, 99]])), model(mx.array([[0, 36]])))


def test_no_tokens():
    model = build()
    assert model(mx.zeros((2, 0), dtype=mx.int32)).shape == (2, 0, 37)
    assert model(mx.zeros((0, 3), dtype=mx.int32)).shape == (0, 3, 37)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (mx.zeros((3,), dtype=mx.int32), r"\[Transformer\] tokens must be \(batch, seqlen\), given shape \(3,\)"),
        (mx.zeros((3, 2)), r"\[Transformer\] tokens must be integers, given mlx.core.float32"),
        (mx.zeros((3, 2), dtype=mx.int8), r"tokens do not fit the state, given 3 streams, allowed: 2"),
    ],
)
def test_wrong_tokens(tokens, message):
    model = build()
    with pytest.raises(ValueError, match=message):
        model.step(tokens, model.init_state(2))


# -- weights ----------------------------------------------------------------------------------------------------------


def test_same_seed_same_weights():
    a, b, c = (build(seed=s).weights() for s in (1, 1, 2))
    assert all(mx.array_equal(a[k], b[k]) for k in a)
    assert not mx.array_equal(a["layers.0.ffn.up.weight"], c["layers.0.ffn.up.weight"])


@pytest.mark.parametrize("seqlen", [1, 33])
def test_pack_is_two_bits_and_changes_no_bit_of_the_logits(seqlen):
    model = build(weights="codebook", tie_embeddings=False)
    tokens = text(2, seqlen)
    logits, params, floats = model(tokens), model.count_params(), model.nbytes()
    mx.eval(logits)
    assert not model.is_packed and model.count_codebook_params() == 4 * 7 * 3
    assert model.pack() is model and model.is_packed
    assert mx.array_equal(model(tokens), logits)
    assert model.count_params() == params
    assert model.nbytes() < floats
    layers = model.codebook_layers()
    assert len(layers) == 7 * 3
    for name, layer in layers:
        assert layer.codes.dtype == mx.uint32 and layer.codes.nbytes * 4 == layer.num_weights, name
        assert "weight" not in layer
    assert {k for k, w in tree_flatten(model.trainable_parameters()) if w.ndim == 2} == {
        "embedding.weight", "head.weight"
    }  # fmt: skip


def test_float_models_are_not_packed():
    model = build()
    assert model.pack() is model and not model.is_packed and model.codebook_layers() == []


def test_codebook_weights_are_levels():
    """The 2-bit model is the float one of its levels."""
    model, tokens = build(weights="codebook"), text(2, 20)
    weights = {}
    for name, layer in model.codebook_layers():
        half = layer.codebook.astype(mx.float16)
        weights[f"{name}.weight"] = gn.codebook_dequantize(gn.codebook_assign(layer.weight, half), half)
    twin = build()
    shared = {k: w for k, w in model.weights().items() if not k.endswith("codebook")}
    twin.load_weights(list({**shared, **weights}.items()))
    assert_close(model(tokens), reference(twin, tokens, float_weights(twin)))


@pytest.mark.parametrize("weights", ["codebook", "float"])
@pytest.mark.parametrize("tie", [True, False])
def test_activation_changes_the_products(weights, tie):
    model, tokens = build(weights=weights, d_model=64, tie_embeddings=tie), text(2, 40)
    exact = model(tokens)
    assert model.set_activation("bfloat16") is model
    for layer in model.product_layers():
        assert layer.activation == ("bfloat16" if "codebook" in layer else "float32")
        layer.activation = "bfloat16"
    assert nrmse(model(tokens), exact) < 0.1
    if _ext.isa() == "avx512_bf16":
        assert not mx.array_equal(model(tokens), exact)
    for layer in model.product_layers():
        layer.activation = "float32"
    assert mx.array_equal(model(tokens), exact)
    with pytest.raises(ValueError, match="unknown activation, given 'int4', allowed: float32, bfloat16, int8"):
        model.product_layers()[0].activation = "int4"


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_stays_half(dtype):
    model, tokens = build(), text(2, 20)
    exact = model(tokens)
    mx.eval(exact)
    model.set_dtype(dtype)
    out = model.forward(tokens)
    assert out.logits.dtype == dtype
    assert {a.dtype for layer in out.state["layers"] for a in layer.values()} == {dtype}
    state = model.init_state(2)
    _, state = model.step(tokens[:, :7], state)
    assert {a.dtype for layer in state["layers"] for a in layer.values()} == {dtype}
    assert nrmse(out.logits, exact) < 0.1


def test_weights_do_not_hold_tables():
    assert not [name for name in build().weights() if "rotary" in name]


# -- generation -------------------------------------------------------------------------------------------------------


def test_generation_of_bytes():
    model = build(vocab_size=256, max_seq_len=24)
    drawn = bytes(generate(model, b"hello", max_bytes=60, seed=3))
    assert len(drawn) == 60 and drawn == bytes(generate(model, b"hello", max_bytes=60, seed=3))
    assert drawn != bytes(generate(model, b"hellp", max_bytes=60, seed=3))
    greedy = bytes(generate(model, b"hello", max_bytes=8, temperature=0))
    tokens = [*b"hello"]
    for byte in greedy:
        assert byte == int(model(mx.array([tokens]))[0, -1].argmax())
        tokens.append(byte)
    assert len(generate_text(model, "x" * 200, max_bytes=3, seed=1)) > 0


def test_generation_drops_nothing_in_training_mode():
    model = build(vocab_size=256, dropout=0.5)
    model.train()
    drawn = bytes(generate(model, b"abc", max_bytes=20, temperature=0))
    model.eval()
    assert drawn == bytes(generate(model, b"abc", max_bytes=20, temperature=0))


def test_public_names():
    assert gn.Transformer is Transformer and gn.TransformerConfig is TransformerConfig
    assert {"init_state", "step", "forward", "save", "load", "pack", "weights", "count_params"} <= {*dir(Ghost)} & {
        *dir(Transformer)
    }


def test_threads_change_no_bit():
    model, tokens = build(), text(4, 60)
    before, results = gn.num_threads(), []
    try:
        for threads in (1, 3):
            gn.set_num_threads(threads)
            results.append(model(tokens))
            mx.eval(results)
    finally:
        gn.set_num_threads(before)
    assert mx.array_equal(*results)


# -- a context shorter than max_seq_len -------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 9, 16])
def test_a_shorter_context_is_that_of_a_model_made_for_it(length):
    """What a model trained on short texts computes for long ones never depends on positions it did not learn."""
    long, short = build(), build(max_seq_len=length)
    short.update(long.parameters())
    long.context = length
    tokens = text(2, 40)
    assert mx.array_equal(long(tokens), short(tokens))
    state, pieces = long.init_state(2), []
    for begin, end in ((0, 5), (5, 6), (6, 30), (30, 40)):
        logits, state = long.step(tokens[:, begin:end], state)
        pieces.append(logits)
    assert_close(mx.concatenate(pieces, axis=1), np.array(short(tokens), np.float64))


def test_a_stream_goes_on_when_the_context_shrinks():
    model = build()
    _, state = model.step(text(1, 30), model.init_state())
    model.context = 8
    logits, state = model.step(text(1, 3, seed=1), state)
    wanted = model(mx.concatenate([text(1, 30)[:, -4:], text(1, 3, seed=1)], axis=1))[:, 4:]
    assert_close(logits, np.array(wanted, np.float64))


@pytest.mark.parametrize("changes", [{}, {"ffn_activation": "gelu"}, {"weights": "codebook"}])
def test_the_context_is_saved_with_the_model(tmp_path, changes):
    model = build(**changes)
    model.context = 11
    model.save(tmp_path / "m.safetensors")
    assert Transformer.load(tmp_path / "m.safetensors").context == 11
    export_model(model, tmp_path / "folder", tokenizer=b"pieces")
    assert import_model(tmp_path / "folder").context == 11
    assert (tmp_path / "folder" / "tokenizer.model").read_bytes() == b"pieces"
    config = tmp_path / "folder" / "config.json"
    config.write_text(config.read_text().replace('context": 11', 'context": 65'))
    with pytest.raises(ValueError, match=r"context.*given 65, allowed: 1 to max_"):
        import_model(tmp_path / "folder")


@pytest.mark.parametrize("length", [0, 65])
def test_a_context_out_of_range(length):
    with pytest.raises(ValueError, match=rf"\[Transformer\] context .* given {length}, allowed: 1 to max_seq_len = 64"):
        build().context = length
