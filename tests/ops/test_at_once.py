"""Small operations on evaluated operands are computed in the call, others when MLX evaluates them. Same bits."""

from __future__ import annotations

import io
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from ghost_native import ops

N, K = 48, 64


def is_computed(x: mx.array) -> bool:
    """Whether there is no operation left to run for x."""
    out = io.StringIO()
    mx.export_to_dot(out, x)
    return "label" not in out.getvalue()


def codebook(dtype: mx.Dtype = mx.float32) -> tuple[mx.array, mx.array]:
    codes, levels = ops.codebook_quantize(mx.random.normal((N, K), key=mx.random.key(1)), per="row")
    levels = levels.astype(dtype)
    mx.eval(codes, levels)
    return codes, levels


def product(x: mx.array, **how) -> mx.array:
    return ops.codebook_matmul(x, *codebook(), **how)


def dense(x: mx.array, **how) -> mx.array:
    weight = mx.random.normal((N, K), key=mx.random.key(2))
    mx.eval(weight)
    return ops.dense_matmul(x, weight, **how)


WEIGHT = mx.random.normal((K,), key=mx.random.key(4))
TARGETS = mx.array([5, 0, 63])
ROWS = mx.array([2, 0, 0])
OTHERS: dict[str, Callable[..., mx.array]] = {
    "rms_norm": lambda x, **how: ops.rms_norm(x, WEIGHT, **how),
    "add_rms_norm": lambda x, **how: ops.add_rms_norm(x, x, WEIGHT, **how)[1],
    "gelu": ops.gelu,
    "silu": ops.silu,
    "tanh": ops.tanh,
    "cross_entropy": lambda x, **how: ops.cross_entropy(x, TARGETS, **how),
    "embedding": lambda x, **how: ops.embedding(x, ROWS, **how),
}
mx.eval(WEIGHT, TARGETS, ROWS)


@pytest.fixture
def x() -> mx.array:
    x = mx.random.normal((3, K), key=mx.random.key(0))
    mx.eval(x)
    return x


@pytest.mark.parametrize("multiply", [product, dense])
def test_what_is_computed_in_the_call(multiply, x):
    assert is_computed(multiply(x))
    assert not is_computed(multiply(x + 1.0))
    assert not is_computed(multiply(x, stream=mx.new_stream(mx.cpu)))
    large = mx.zeros((2**24 // N // K + 1, K))
    mx.eval(large)
    assert not is_computed(multiply(large))


@pytest.mark.parametrize("activation", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("multiply", [product, dense])
def test_same_bits_in_the_call_and_in_a_graph(multiply, dtype, activation, x):
    x = x.astype(dtype)
    mx.eval(x)
    at_once = multiply(x, activation=activation)
    in_graph = multiply(x, activation=activation, stream=mx.new_stream(mx.cpu))
    assert at_once.dtype == in_graph.dtype == dtype
    assert mx.array_equal(at_once, in_graph)
    assert mx.array_equal(at_once, mx.compile(lambda x: multiply(x, activation=activation))(x))
    assert mx.array_equal(at_once, mx.vmap(lambda row: multiply(row, activation=activation))(x))


@pytest.mark.parametrize("name", OTHERS)
def test_other_operators(name, x):
    operator = OTHERS[name]
    at_once = operator(x)
    assert is_computed(at_once)
    in_graph = operator(x, stream=mx.new_stream(mx.cpu))
    assert not is_computed(in_graph)
    assert mx.array_equal(at_once, in_graph)
    assert mx.array_equal(at_once, mx.compile(operator)(x))
    gradient = mx.grad(lambda x: mx.sum(operator(x) ** 2))(x)
    assert np.any(np.array(gradient))
    large = mx.ones((2**20 // K + 1, K))
    mx.eval(large)
    assert name in ("embedding", "cross_entropy") or not is_computed(operator(large))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("transpose", [True, False])
def test_half_codebooks_count_as_their_float32_values(dtype, transpose, x):
    codes, levels = codebook(dtype)
    given = x if transpose else x[:, :N]
    exact = ops.codebook_matmul(given, codes, levels.astype(mx.float32), transpose=transpose)
    assert mx.array_equal(ops.codebook_matmul(given, codes, levels, transpose=transpose), exact)
    by_levels = mx.vmap(lambda levels: ops.codebook_matmul(given, codes, levels, transpose=transpose))
    assert mx.allclose(by_levels(levels[None])[0], exact, atol=1e-4)


def test_half_codebooks_are_differentiable_beside_x(x):
    codes, levels = codebook(mx.float16)

    def loss(x: mx.array, levels: mx.array) -> mx.array:
        return mx.sum(ops.codebook_matmul(x, codes, levels) ** 2)

    dx, dlevels = mx.grad(loss, argnums=(0, 1))(x, levels)
    assert dlevels.dtype == mx.float16
    assert mx.array_equal(dx, mx.grad(loss)(x, levels))
    assert np.any(np.array(dlevels))


@pytest.mark.parametrize("multiply", [product, dense])
def test_gradients_pass(multiply, x):
    def loss(x: mx.array) -> mx.array:
        return mx.sum(multiply(x) * multiply(x[:1]))

    mx.eval(gradient := mx.grad(loss)(x))
    step = mx.array(1e-2)
    direction = mx.random.normal(x.shape, key=mx.random.key(3))
    change = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert np.isclose(float(change), float(mx.sum(gradient * direction)), rtol=1e-3)


def test_operands_still_being_computed_are_waited_for():
    slow = mx.random.normal((1500, 1500)) @ mx.random.normal((1500, 1500))
    mx.async_eval(slow)
    y = product(slow[:3, :K])
    assert mx.array_equal(y, product(mx.array(np.array(slow)[:3, :K].copy())))
