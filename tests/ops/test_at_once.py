"""Small products of evaluated operands are computed in the call; everything else when MLX evaluates it. Same bits."""

from __future__ import annotations

import io

import mlx.core as mx
import numpy as np
import pytest

from ghost_native import ops

N, K = 48, 64


def is_computed(x: mx.array) -> bool:
    """Whether there is no operation left to run for x."""
    out = io.StringIO()
    mx.export_to_dot(out, x)
    return "Matmul" not in out.getvalue()


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
