"""Operands that are still being computed: nothing is put between them and an operator."""

from __future__ import annotations

import io

import mlx.core as mx
import numpy as np
import pytest

from ghost_native import ops

SIDE = 1500  # a product that takes long enough to be asked about on its way


def drawn(x: mx.array) -> str:
    """The graph that x is the result of, in DOT."""
    out = io.StringIO()
    mx.export_to_dot(out, x)
    return out.getvalue()


@pytest.fixture
def slow() -> mx.array:
    a = mx.random.normal((SIDE, SIDE))
    mx.eval(a)
    return a @ a


def test_dense_operands_need_no_node(slow):
    mx.async_eval(slow)
    y = ops.gelu(slow)
    assert "Contiguous" not in drawn(y)
    assert np.array_equal(np.array(y), np.array(ops.gelu(mx.array(np.array(slow)))))


def test_others_are_copied(slow):
    turned = slow.T
    mx.async_eval(turned)
    y = ops.gelu(turned)
    assert "Contiguous" in drawn(y)
    assert np.array_equal(np.array(y), np.array(ops.gelu(mx.array(np.array(slow).T.copy()))))


@pytest.mark.parametrize("shaped", [lambda x: x.reshape(-1, 4), lambda x: x[None], lambda x: mx.concatenate([x, x])])
def test_shapes_of_dense_operands_are_dense(shaped):
    x = mx.arange(48.0).reshape(12, 4)
    mx.eval(x)
    y = ops.gelu(shaped(x))
    assert "Contiguous" not in drawn(y)
    assert np.array_equal(np.array(y), np.array(ops.gelu(mx.array(np.array(shaped(x))))))


@pytest.mark.parametrize("shaped", [lambda x: x.T.reshape(4, 12), lambda x: x.T[None], lambda x: x[:, 1:].squeeze()])
def test_shapes_of_others_are_copied_right(shaped):
    x = mx.arange(48.0).reshape(12, 4)
    mx.eval(x)
    assert np.array_equal(np.array(ops.gelu(shaped(x))), np.array(ops.gelu(mx.array(np.array(shaped(x)).copy()))))
