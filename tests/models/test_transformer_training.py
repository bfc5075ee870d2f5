from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

import ghost_native as gn
from ghost_native import ops
from ghost_native.models import Transformer
from ghost_native.models.export import llama_weights
from ghost_native.nn.dropout import dropout
from tests.models.transformer_models import build, float_weights, reference, text
from tests.tolerances import NRMSE, assert_close, nrmse

TINY = {"vocab_size": 11, "n_layers": 2, "d_model": 8, "n_heads": 2, "mlp_multiple": 2.0}


def gradients(model: Transformer, tokens: mx.array, cotangent: np.ndarray, key: mx.array | None = None):
    """By name, of the sum of logits times cotangent."""

    def loss(tokens):
        return (model(tokens, key=key) * mx.array(cotangent.astype(np.float32))).sum()

    return dict(tree_flatten(nn.value_and_grad(model, loss)(tokens)[1]))


def central_differences(model: Transformer, tokens: mx.array, cotangent: np.ndarray) -> dict[str, np.ndarray]:
    """The same of the float64 reference, one weight after another."""
    weights, step = float_weights(model), 1e-5
    result = {}
    for name, w in weights.items():
        grad = np.zeros_like(w)
        for index in np.ndindex(*w.shape):
            sums = []
            for sign in (1, -1):
                w[index] += sign * step
                sums.append((reference(model, tokens, weights) * cotangent).sum())
                w[index] -= sign * step
            grad[index] = (sums[0] - sums[1]) / (2 * step)
        result[name] = grad
    return result


@pytest.mark.parametrize("changes", [{}, {"ffn_activation": "gelu", "tie_embeddings": False}], ids=["silu", "gelu"])
def test_gradients_of_every_weight(changes):
    model, tokens = build(**TINY, **changes), text(1, 5, vocab=11)
    cotangent = np.random.default_rng(1).normal(size=(1, 5, 11))
    expected = central_differences(model, tokens, cotangent)
    actual = llama_weights(gradients(model, tokens, cotangent))
    assert actual.keys() == expected.keys()
    for name, g in actual.items():
        assert_close(g, expected[name], what=name)


def test_gradients_of_a_stream_reach_what_it_holds():
    """Through the cache as through one call."""
    model, tokens = build(**TINY), text(2, 12, vocab=11)
    cotangent = mx.array(np.random.default_rng(2).normal(size=(2, 12, 11)).astype(np.float32))

    def cut(tokens):
        state, pieces = model.init_state(2), []
        for a, b in ((0, 5), (5, 6), (6, 12)):
            out = model.forward(tokens[:, a:b], state)
            state = out.state
            pieces.append(out.logits)
        return (mx.concatenate(pieces, axis=1) * cotangent).sum()

    for checkpointing in (False, True):
        model.set_gradient_checkpointing(checkpointing)
        pieces = dict(tree_flatten(nn.value_and_grad(model, cut)(tokens)[1]))
        model.set_gradient_checkpointing(False)
        for name, g in gradients(model, tokens, np.array(cotangent)).items():
            assert_close(pieces[name], g, what=name)


@pytest.mark.parametrize("weights", ["float", "codebook"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_checkpointed_gradients_are_the_plain_ones(weights, rate):
    model, tokens = build(weights=weights, dropout=rate), text(3, 20)
    cotangent, key = np.random.default_rng(3).normal(size=(3, 20, 37)), mx.random.key(4)
    plain = gradients(model, tokens, cotangent, key)
    assert model.set_gradient_checkpointing(True) is model
    held = model.weights()
    again = gradients(model, tokens, cotangent, key)
    assert plain.keys() == again.keys() == dict(tree_flatten(model.trainable_parameters())).keys()
    for name, g in plain.items():
        assert float(mx.abs(g).max()) > 0, name
        assert mx.array_equal(again[name], g), name
    assert all(mx.array_equal(held[name], w) for name, w in model.weights().items())


def test_checkpointing_takes_less_memory():
    model, tokens = build(n_layers=6, d_model=64), text(8, 64)
    cotangent = np.random.default_rng(3).normal(size=(8, 64, 37))
    peaks = []
    for on in (False, True):
        model.set_gradient_checkpointing(on)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(gradients(model, tokens, cotangent))
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] < 0.6 * peaks[0]


def test_codebook_gradients_reach_weights_and_levels():
    model, tokens = build(weights="codebook"), text(2, 20)
    cotangent = np.random.default_rng(3).normal(size=(2, 20, 37))
    for name, g in gradients(model, tokens, cotangent).items():
        assert bool(mx.isfinite(g).all()) and float(mx.abs(g).max()) > 0, name


def test_a_model_learns():
    model, tokens = build(n_layers=2), text(4, 32)
    rates: list[float] = []

    def loss(tokens):
        return ops.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).mean()

    step = nn.value_and_grad(model, loss)
    for _ in range(40):
        value, grads = step(tokens)
        flat = dict(tree_flatten(grads))
        model.load_weights([(k, w - 0.05 * flat[k]) for k, w in model.weights().items()])
        rates.append(float(value))
    assert rates[-1] < 0.5 * rates[0]


# -- dropout ----------------------------------------------------------------------------------------------------------


def test_dropout_is_of_training_alone():
    model, plain, tokens = build(dropout=0.4), build(dropout=0.0), text(2, 20)
    whole = plain(tokens)
    assert not mx.array_equal(model.train()(tokens), whole)
    assert mx.array_equal(model.eval()(tokens), whole)
    assert mx.array_equal(model.eval()(tokens, key=mx.random.key(1)), whole)
    assert mx.array_equal(plain.train()(tokens, key=mx.random.key(1)), whole)
    assert_close(model.train().step(tokens, model.init_state(2))[0], whole)


def test_dropout_is_seeded():
    model, tokens = build(dropout=0.4), text(2, 20)
    first = model(tokens, key=mx.random.key(1))
    assert mx.array_equal(model(tokens, key=mx.random.key(1)), first)
    assert not mx.array_equal(model(tokens, key=mx.random.key(2)), first)
    mx.random.seed(8)
    a, b = model(tokens), model(tokens)
    mx.random.seed(8)
    assert mx.array_equal(model(tokens), a) and not mx.array_equal(a, b)


def test_dropout_in_a_context_that_begins_anew():
    model, tokens = build(dropout=0.4, max_seq_len=8), text(2, 20)
    first = model(tokens, key=mx.random.key(1))
    assert first.shape == (2, 20, 37) and mx.array_equal(model(tokens, key=mx.random.key(1)), first)
    state = model.forward(tokens, key=mx.random.key(1)).state
    assert not mx.array_equal(model.forward(tokens, state, key=mx.random.key(2)).logits, first)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(dtype):
    x = mx.full((100, 1000), 2.0, dtype=dtype)
    y = dropout(x, 0.25, mx.random.key(0))
    assert y.dtype == dtype
    values = np.unique(np.array(y.astype(mx.float32)))
    assert len(values) == 2 and values[0] == 0 and values[1] == pytest.approx(2 / 0.75, rel=1e-2)
    assert float((y == 0).astype(mx.float32).mean()) == pytest.approx(0.25, abs=0.01)
    assert dropout(x, 0.25, None) is x and dropout(x, 0.0, mx.random.key(0)) is x
    _, (g,) = mx.vjp(lambda x: dropout(x, 0.25, mx.random.key(0)), [x], [mx.ones_like(x)])
    assert nrmse(g * 2, y) <= NRMSE["bfloat16"]


def test_every_block_and_branch_drops():
    """With a rate near 1 hardly anything passes: what is left is the embedding's own part, or nothing."""
    model, tokens = build(dropout=0.999, n_layers=2), text(1, 6)
    out = model(tokens, key=mx.random.key(3))
    assert float((out == 0).astype(mx.float32).mean()) > 0.3


def test_composed_gradients():
    model, tokens = build(**TINY), text(2, 7, vocab=11)
    cotangent = np.random.default_rng(1).normal(size=(2, 7, 11))
    fused = gradients(model, tokens, cotangent)
    with gn.composed_form():
        for name, g in gradients(model, tokens, cotangent).items():
            assert_close(g, fused[name], what=name)
