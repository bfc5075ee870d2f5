"""Gradients of gradients: those of the kernels agree with those of the composed form, mixed ones included."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
import pytest

import ghost_native as gn
from tests.operators import vjp
from tests.tolerances import assert_close, to_numpy

r = np.random.default_rng(0)


def normal(*shape: int) -> mx.array:
    return mx.array(r.standard_normal(shape), dtype=mx.float32)


PLAN = gn.routing_plan(mx.array(r.random((2, 6)) < 0.6))
ROWS = int(PLAN.indices.shape[0])
TARGETS = mx.array([1, 0, -1, 4])
CU = mx.array([0, 2, 2, 7], dtype=mx.int32)

CASES: dict[str, tuple[Callable[..., mx.array], list[mx.array]]] = {
    "cross_entropy": (lambda x: gn.cross_entropy(x, TARGETS), [normal(4, 5)]),
    "skip_scatter": (lambda x, y, g: gn.skip_scatter(x, y, PLAN, g), [normal(2, 6, 3), normal(ROWS, 3), normal(ROWS)]),
    "skip_gather": (lambda x: gn.skip_gather(x, PLAN).square(), [normal(2, 6, 3)]),
    "gelu": (gn.gelu, [normal(3, 7)]),
    "rms_norm": (gn.rms_norm, [normal(3, 7), normal(7)]),
    "dense_matmul": (gn.dense_matmul, [normal(3, 7), normal(4, 7)]),
    "dense_matmul stack": (gn.dense_matmul, [normal(2, 3, 7), normal(2, 4, 7)]),
    "causal_conv1d": (
        lambda x, w, b: gn.causal_conv1d(x, w, b, activation="silu", cu_seqlens=CU),
        [normal(7, 3), normal(3, 4), normal(3)],
    ),
    "selective_scan": (
        lambda u, d, A, B, C, z: gn.selective_scan(u, d, -mx.exp(A), B, C, z=z, delta_softplus=True),
        [normal(2, 5, 3), normal(2, 5, 3), normal(3, 2), normal(2, 5, 2), normal(2, 5, 2), normal(2, 5, 3)],
    ),
}


def all_gradients(fn: Callable[..., mx.array], values: Sequence[mx.array]) -> list[mx.array]:
    return vjp(fn, values, [mx.array(1.0)])


@pytest.mark.parametrize("name", CASES)
def test_second_order_agrees_with_the_composed_form(name):
    fn, inputs = CASES[name]
    cotangent = normal(*fn(*inputs).shape)
    directions = [normal(*v.shape) for v in inputs]

    def directional(*values: mx.array) -> mx.array:
        """The gradient along random directions, to be differentiated again."""
        gradients = all_gradients(lambda *v: (fn(*v) * cotangent).sum(), values)
        return sum(((g * d).sum() for g, d in zip(gradients, directions, strict=True)), mx.array(0.0))

    native = all_gradients(directional, inputs)
    with gn.composed_form():
        composed = all_gradients(directional, inputs)
    for i, (got, want) in enumerate(zip(native, composed, strict=True)):
        np.testing.assert_allclose(to_numpy(got), to_numpy(want), rtol=2e-4, atol=2e-4, err_msg=f"input {i}")


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_cotangents_of_another_dtype_are_converted(dtype):
    """A custom gradient in between may hand a float32 cotangent to a half-precision operator."""

    @mx.custom_function
    def passed(x):
        return x

    @passed.vjp
    def passed_vjp(primals, cotangents, outputs):
        return cotangents.astype(mx.float32)

    x = normal(4, 40).astype(dtype)
    w = normal(40).astype(dtype)
    plain = mx.grad(lambda x: gn.gelu(gn.rms_norm(x, w)).sum())(x)
    through = mx.grad(lambda x: passed(gn.gelu(passed(gn.rms_norm(x, w)))).sum())(x)
    assert_close(through, to_numpy(plain), "float16" if dtype == mx.float16 else "bfloat16")
    _, (dot,) = mx.jvp(lambda a: gn.dense_matmul(a, normal(3, 40)), [x], [mx.ones(x.shape)])
    assert dot.dtype == dtype


def test_sixty_four_bit_indices_do_not_wrap():
    far = mx.array([2**32 + 1, -1, 1], dtype=mx.int64)
    assert np.array(gn.embedding(mx.ones((3, 2)), far)).tolist() == [[0, 0], [0, 0], [1, 1]]
    assert np.array(gn.cross_entropy(mx.zeros((3, 2)), far) > 0).tolist() == [False, False, True]


def test_activations_fade_to_zero_far_below():
    x = mx.array([-3e38, -1e4, -100.0])
    assert np.abs(np.array(gn.gelu(x))).max() < 1e-30
    w = mx.zeros((3, 2)).at[:, 1].add(1.0)
    assert np.abs(np.array(gn.causal_conv1d(x[None, None], w, activation="silu"))).max() < 1e-30


@pytest.mark.parametrize("boundaries", [[0, 10**8], [9, 3, 5], [-7, 30]])
def test_composed_conv_clamps_boundaries_like_the_kernel(boundaries):
    x, w, cu = normal(20, 3), normal(3, 4), mx.array(boundaries, dtype=mx.int32)
    native = gn.causal_conv1d(x, w, cu_seqlens=cu, return_last_state=True)
    with gn.composed_form():
        composed = gn.causal_conv1d(x, w, cu_seqlens=cu, return_last_state=True)
    for got, want in zip(native, composed, strict=True):
        assert_close(got, to_numpy(want))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_int8_activations_do_not_hide_what_is_not_finite(isa, bad):
    codes, codebook = gn.codebook_quantize(normal(4, 64))
    x = np.ones((2, 64), np.float32)
    x[0, 3] = bad
    y = np.array(gn.codebook_matmul(mx.array(x), codes, codebook, activation="int8"))
    assert not np.isfinite(y[0]).any() and np.isfinite(y[1]).all()
